//! Tables that fit: columns that can shrink do so, columns that can be spared go, and no line wraps.

use console::{Alignment, measure_text_width, pad_str, truncate_str};

const GAP: usize = 2;

/// One column of a table.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    title: &'static str,
    align: Alignment,
    /// May be cut down to this many characters; otherwise its content is never cut.
    min: Option<usize>,
    /// Columns with the highest number go first when there is no room; 0 stays.
    spare: u8,
}

impl Column {
    pub(crate) fn left(title: &'static str) -> Self {
        Self { title, align: Alignment::Left, min: None, spare: 0 }
    }

    pub(crate) fn right(title: &'static str) -> Self {
        Self { align: Alignment::Right, ..Self::left(title) }
    }

    pub(crate) fn shrink(mut self, min: usize) -> Self {
        self.min = Some(min);
        self
    }

    pub(crate) fn spare(mut self, order: u8) -> Self {
        self.spare = order;
        self
    }
}

/// Rows under named columns.
#[derive(Debug, Default)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: impl Into<Vec<Column>>) -> Self {
        Self { columns: columns.into(), rows: Vec::new() }
    }

    /// Adds a row. Cells may hold colour codes; control characters must be gone.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<String> = cells.into_iter().collect();
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The lines of the table, the header first. Without a width nothing is cut.
    pub(crate) fn lines(&self, width: Option<usize>) -> Vec<String> {
        let mut shown: Vec<usize> =
            (0..self.columns.len()).filter(|&index| self.has_content(index)).collect();
        let mut widths: Vec<usize> = (0..self.columns.len()).map(|index| self.natural_width(index)).collect();
        if let Some(width) = width {
            self.fit(width, &mut shown, &mut widths);
        }
        let header: Vec<String> = self.columns.iter().map(|column| column.title.to_owned()).collect();
        let titled = header.iter().any(|title| !title.is_empty());
        let rows = titled.then_some(&header).into_iter().chain(&self.rows);
        rows.map(|cells| self.line(cells, &shown, &widths, width)).collect()
    }

    fn line(&self, cells: &[String], shown: &[usize], widths: &[usize], width: Option<usize>) -> String {
        let mut line = String::new();
        for (position, &index) in shown.iter().enumerate() {
            if position > 0 {
                line.push_str("  ");
            }
            line.push_str(&pad_str(&cells[index], widths[index], self.columns[index].align, Some("…")));
        }
        let line = line.trim_end();
        match width {
            Some(width) => truncate_str(line, width, "…").into_owned(),
            None => line.to_owned(),
        }
    }

    /// A column without a title and without a word takes no room.
    fn has_content(&self, index: usize) -> bool {
        !self.columns[index].title.is_empty() || self.rows.iter().any(|row| !row[index].is_empty())
    }

    fn natural_width(&self, index: usize) -> usize {
        let cells = self.rows.iter().map(|row| measure_text_width(&row[index]));
        cells.max().unwrap_or(0).max(measure_text_width(self.columns[index].title))
    }

    fn fit(&self, width: usize, shown: &mut Vec<usize>, widths: &mut [usize]) {
        loop {
            let total: usize =
                shown.iter().map(|&index| widths[index] + GAP).sum::<usize>().saturating_sub(GAP);
            let mut excess = total.saturating_sub(width);
            if excess == 0 {
                return;
            }
            let slack = |index: usize, widths: &[usize]| {
                self.columns[index].min.map_or(0, |min| widths[index].saturating_sub(min))
            };
            if shown.iter().map(|&index| slack(index, widths)).sum::<usize>() >= excess {
                // The widest gives first, so that a long column does not take the short ones down with it.
                while excess > 0 {
                    let Some(&widest) =
                        shown.iter().filter(|&&i| slack(i, widths) > 0).max_by_key(|&&i| widths[i])
                    else {
                        return;
                    };
                    widths[widest] -= 1;
                    excess -= 1;
                }
                return;
            }
            let Some(position) = shown
                .iter()
                .enumerate()
                .filter(|&(_, &index)| self.columns[index].spare > 0)
                .max_by_key(|&(_, &index)| self.columns[index].spare)
                .map(|(position, _)| position)
            else {
                for &index in shown.iter() {
                    widths[index] -= slack(index, widths);
                }
                return;
            };
            shown.remove(position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new([
            Column::left("id").shrink(8),
            Column::left("state"),
            Column::left("started").spare(2),
            Column::right("accuracy").spare(1),
        ]);
        table
            .row(["01JDZ8Q6X3V5K2N7M4P9R1T0AB", "succeeded", "2026-11-24 02:55", "0.9138"].map(String::from));
        table.row(["01JDZ8Q6X3V5K2N7M4P9R1T0AC", "running", "2026-11-24 03:10", "-"].map(String::from));
        table
    }

    #[test]
    fn a_pipe_gets_everything() {
        assert_eq!(
            table().lines(None),
            [
                "id                          state      started           accuracy",
                "01JDZ8Q6X3V5K2N7M4P9R1T0AB  succeeded  2026-11-24 02:55    0.9138",
                "01JDZ8Q6X3V5K2N7M4P9R1T0AC  running    2026-11-24 03:10         -",
            ]
        );
    }

    #[test]
    fn at_60_columns_the_long_column_shrinks() {
        assert_eq!(
            table().lines(Some(60))[1],
            "01JDZ8Q6X3V5K2N7M4P9…  succeeded  2026-11-24 02:55    0.9138"
        );
    }

    #[test]
    fn at_30_columns_what_can_be_spared_goes() {
        assert_eq!(
            table().lines(Some(30)),
            [
                "id         state      accuracy",
                "01JDZ8Q6…  succeeded    0.9138",
                "01JDZ8Q6…  running           -"
            ]
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in 1..90 {
            for line in table().lines(Some(width)) {
                assert!(measure_text_width(&line) <= width, "{width}: {line:?}");
            }
        }
    }

    #[test]
    fn colour_and_wide_characters_keep_the_columns_aligned() {
        let mut table = Table::new([Column::left("label"), Column::right("score")]);
        table.row(["\x1b[32m良い\x1b[0m".to_owned(), "0.98".to_owned()]);
        table.row(["bad".to_owned(), "0.02".to_owned()]);
        let lines = table.lines(None);
        assert!(lines.iter().all(|line| measure_text_width(line) == 12), "{lines:?}");
    }
}
