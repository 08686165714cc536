//! A matrix inside a slice.

/// A matrix inside a slice. Either its rows or its columns are contiguous.
#[derive(Clone, Copy)]
pub(in super::super) struct Matrix<'a> {
    pub(super) values: &'a [f32],
    pub(in super::super) rows: usize,
    pub(in super::super) columns: usize,
    /// Values from one row to the next when rows are contiguous, else from one column to the next.
    pub(super) stride: usize,
    /// Whether the values of a column, not of a row, are contiguous.
    pub(super) turned: bool,
}

impl<'a> Matrix<'a> {
    /// A matrix whose rows stand `stride` values apart.
    pub(in super::super) fn new(values: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        let end = if rows == 0 || columns == 0 { 0 } else { (rows - 1) * stride + columns };
        assert!(end <= values.len(), "a matrix reaches beyond its values");
        Self { values, rows, columns, stride, turned: false }
    }

    /// A matrix without gaps.
    pub(in super::super) fn dense(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::new(values, rows, columns, columns)
    }

    /// The transpose, without moving a value.
    pub(in super::super) fn t(self) -> Self {
        Self { rows: self.columns, columns: self.rows, turned: !self.turned, ..self }
    }
}
