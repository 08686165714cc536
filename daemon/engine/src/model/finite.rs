//! Whether weights are numbers: those of a file before they are used, and those of a model before it is kept.

use std::fmt;
use std::path::Path;

use safetensors::Dtype;

use super::parameters::Parameters;
use hone_base::error::{Error, Result};

/// Bytes that are looked at before it is asked whether a value among them is not finite; a multiple of every width.
const PIECE: usize = 1 << 14;

/// A value that is not finite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFinite {
    /// The tensor's name.
    pub name: String,
    /// The first row that has one, from 0; `None` where the tensor has no rows.
    pub row: Option<usize>,
    /// `NaN` or `infinity`.
    pub what: &'static str,
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has {}", self.name, self.what)?;
        self.row.map_or(Ok(()), |row| write!(f, " in row {row}"))
    }
}

/// Checks a tensor as it lies in a file, at about the speed of memory.
pub(super) fn check_tensor(
    path: &Path,
    name: &str,
    dtype: Dtype,
    shape: &[usize],
    bytes: &[u8],
) -> Result<()> {
    match in_tensor(name, dtype, shape, bytes) {
        None => Ok(()),
        Some(found) => Err(Error::precondition(format!(
            "the weight {found} ({}): the file is damaged, or what wrote it had diverged; fetch it again or use another one",
            path.display()
        ))),
    }
}

/// The first parameter that is not finite.
pub fn in_parameters(parameters: &Parameters) -> Option<NotFinite> {
    parameters.iter().find_map(|parameter| {
        let values = parameters.of(parameter.id);
        let largest = values.iter().fold(0, |most: u32, value| most.max(value.to_bits() & 0x7fff_ffff));
        if largest < 0x7f80_0000 {
            return None;
        }
        let place = values.iter().position(|value| !value.is_finite())?;
        let name = parameter.parts.get(place * parameter.parts.len() / values.len().max(1))?;
        let shape = parameter.part_shape();
        let size: usize = shape.iter().product();
        let what = if values.get(place).is_some_and(|value| value.is_nan()) { "NaN" } else { "infinity" };
        Some(NotFinite { name: name.clone(), row: row(&shape, place % size.max(1)), what })
    })
}

fn in_tensor(name: &str, dtype: Dtype, shape: &[usize], bytes: &[u8]) -> Option<NotFinite> {
    let (place, is_nan) = match dtype {
        Dtype::F64 => first(bytes, 0x7ff0_0000_0000_0000, |bytes: [u8; 8]| {
            u64::from_le_bytes(bytes) & 0x7fff_ffff_ffff_ffff
        }),
        Dtype::F32 => first(bytes, 0x7f80_0000, |bytes: [u8; 4]| u32::from_le_bytes(bytes) & 0x7fff_ffff),
        Dtype::F16 => first(bytes, 0x7c00, |bytes: [u8; 2]| u16::from_le_bytes(bytes) & 0x7fff),
        Dtype::BF16 => first(bytes, 0x7f80, |bytes: [u8; 2]| u16::from_le_bytes(bytes) & 0x7fff),
        _ => None,
    }?;
    let what = if is_nan { "NaN" } else { "infinity" };
    Some(NotFinite { name: name.to_owned(), row: row(shape, place), what })
}

/// The first value whose magnitude is at least that of infinity, and whether it is above it, which is NaN. The largest
/// of a piece is found without a branch, so that the compiler takes many values at once.
fn first<const WIDTH: usize, Bits: Ord + Copy + Default>(
    bytes: &[u8],
    infinity: Bits,
    magnitude: impl Fn([u8; WIDTH]) -> Bits,
) -> Option<(usize, bool)> {
    for (piece, bytes) in bytes.chunks(PIECE).enumerate() {
        let values = || bytes.as_chunks::<WIDTH>().0.iter().map(|&value| magnitude(value));
        if values().fold(Bits::default(), Bits::max) >= infinity {
            let (place, value) = values().enumerate().find(|(_, value)| *value >= infinity)?;
            return Some((piece * (PIECE / WIDTH) + place, value > infinity));
        }
    }
    None
}

fn row(shape: &[usize], place: usize) -> Option<usize> {
    match shape {
        [] | [_] => None,
        [_, inner @ ..] => Some(place / inner.iter().product::<usize>().max(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Option<String> {
        in_tensor("words.weight", dtype, shape, &bytes).map(|found| found.to_string())
    }

    #[test]
    fn a_value_that_is_no_number_is_named_with_its_tensor_and_row_in_every_width() {
        let rows = |value: f64| {
            let mut values = vec![0.5; 40_000];
            values[3 * 9_999 + 1] = value;
            values.truncate(30_000);
            values
        };
        let shape = [10_000, 3];
        for (value, words) in [(f64::NAN, "NaN"), (f64::NEG_INFINITY, "infinity")] {
            let expected = Some(format!("words.weight has {words} in row 9999"));
            let values = rows(value);
            let f64s = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            assert_eq!(found(Dtype::F64, &shape, f64s), expected);
            let f32s = values.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect();
            assert_eq!(found(Dtype::F32, &shape, f32s), expected);
            // The upper half of a float32 is a bfloat16.
            let bf16s =
                values.iter().flat_map(|x| [(*x as f32).to_le_bytes()[2], (*x as f32).to_le_bytes()[3]]);
            assert_eq!(found(Dtype::BF16, &shape, bf16s.collect()), expected);
        }
        let f16s =
            |bits: u16| [0x3800, bits, 0x3800, 0x3800].iter().flat_map(|x: &u16| x.to_le_bytes()).collect();
        assert_eq!(found(Dtype::F16, &[4], f16s(0x7e00)), Some("words.weight has NaN".into()));
        assert_eq!(
            found(Dtype::F16, &[2, 2], f16s(0xfc00)),
            Some("words.weight has infinity in row 0".into())
        );
    }

    #[test]
    fn the_largest_finite_number_and_whole_numbers_pass() {
        let largest = [f32::MAX, f32::MIN, 0.0, -0.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(found(Dtype::F32, &[4], largest), None);
        assert_eq!(found(Dtype::I64, &[1], vec![0xff; 8]), None);
        assert_eq!(found(Dtype::F16, &[1], 0x7bff_u16.to_le_bytes().to_vec()), None);
    }
}
