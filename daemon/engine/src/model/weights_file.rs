//! Which files hold a folder's weights, and what is in them: one safetensors file, or several with an index.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::finite;
use hone_base::digest;
use hone_base::error::{Error, Result};
use hone_base::file;
use hone_base::model_file;
use hone_base::model_file::index::{INDEX, WEIGHTS, files_of, no_weights};

/// The longest header of a safetensors file that is read.
const MAX_HEADER: u64 = 100 << 20;

/// Names of a list that a message shows.
const SHOWN: usize = 3;

/// What the files of a folder's weights have, without the numbers.
#[derive(Debug)]
pub(super) struct Contents {
    files: Vec<PathBuf>,
    tensors: BTreeMap<String, Stored>,
}

/// A tensor as it lies in a file.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    file: usize,
    dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Bytes of the file.
    range: Range<usize>,
}

/// A folder's weights in memory.
#[derive(Debug)]
pub(super) struct Weights {
    pub(super) contents: Contents,
    /// Of each file.
    bytes: Vec<Vec<u8>>,
}

impl Contents {
    /// Reads the headers of a folder's files; each file's size must be what its header says.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        Self::collect(folder, |path, size| {
            let file = File::open(path).map_err(|error| Error::io("read", path, &error))?;
            header(path, size, file)
        })
    }

    /// The tensors of a folder's files, whose headers `header` reads.
    fn collect(
        folder: &Path,
        mut header: impl FnMut(&Path, u64) -> Result<(Metadata, usize)>,
    ) -> Result<Self> {
        let (names, index) = files_of(folder)?;
        let (mut files, mut tensors) = (Vec::new(), BTreeMap::new());
        for (file, name) in names.iter().enumerate() {
            let path = folder.join(name);
            let size = model_file::size(&path)?.ok_or_else(|| no_weights(folder))?;
            let (metadata, start) = header(&path, size)?;
            for (tensor, info) in metadata.tensors() {
                let (from, to) = info.data_offsets;
                let range = start + from..start + to;
                let stored = Stored { file, dtype: info.dtype, shape: info.shape.clone(), range };
                // Where several files have a tensor, the index chooses.
                if index.as_ref().is_none_or(|index| index.get(&tensor).is_none_or(|of| of == name)) {
                    tensors.insert(tensor, stored);
                }
            }
            files.push(path);
        }
        if let Some((tensor, file)) =
            index.iter().flatten().find(|(tensor, _)| !tensors.contains_key(tensor.as_str()))
        {
            return Err(Error::corrupt(format!(
                "{} says that {tensor} is in {file}, which does not have it; the files do not belong together: fetch \
                 them again",
                folder.join(INDEX).display()
            )));
        }
        Ok(Self { files, tensors })
    }

    /// A tensor by its name in the files.
    pub(super) fn get(&self, name: &str) -> Option<&Stored> {
        self.tensors.get(name)
    }

    /// The names in the files, sorted.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The file that a tensor is in.
    pub(super) fn file_of(&self, stored: &Stored) -> &Path {
        self.files.get(stored.file).map_or(Path::new(WEIGHTS), PathBuf::as_path)
    }

    /// The file, or the folder of several.
    pub(super) fn place(&self) -> &Path {
        match self.files.as_slice() {
            [file] => file,
            files => files.first().and_then(|file| file.parent()).unwrap_or(Path::new(WEIGHTS)),
        }
    }
}

impl Stored {
    /// Fails for a tensor that is not made of floating-point numbers, as quantised weights are.
    pub(super) fn check_type(&self) -> Result<DType> {
        match self.dtype {
            Dtype::F16 => Ok(DType::F16),
            Dtype::BF16 => Ok(DType::BF16),
            Dtype::F32 => Ok(DType::F32),
            Dtype::F64 => Ok(DType::F64),
            other => Err(Error::precondition(format!(
                "the weights are of type {other}; Hone trains float32 weights and reads F32, F16, BF16 and F64: take \
                 the model before it was quantised"
            ))),
        }
    }
}

impl Weights {
    /// Reads a folder's weights.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let mut bytes = Vec::new();
        let contents = Contents::collect(folder, |path, _| {
            let file = file::read(path).map_err(|error| Error::io("read", path, &error))?;
            let header = header(path, file.len() as u64, file.as_slice());
            bytes.push(file);
            header
        })?;
        Ok(Self { contents, bytes })
    }

    /// SHA-256 in lower-case hexadecimal: of the file; of several, that of the lines that `sha256sum` prints for them in
    /// the order of their names.
    pub(super) fn sha256(&self) -> String {
        match self.bytes.as_slice() {
            [file] => digest::of_bytes(file),
            files => {
                let line = |(path, bytes): (&PathBuf, &Vec<u8>)| {
                    let name = path.file_name().unwrap_or_default().to_string_lossy();
                    format!("{}  {name}\n", digest::of_bytes(bytes))
                };
                let lines: String = self.contents.files.iter().zip(files).map(line).collect();
                digest::of_bytes(lines.as_bytes())
            }
        }
    }

    /// Fails for a tensor with a value that is no number.
    pub(super) fn check_finite(&self, name: &str, stored: &Stored) -> Result<()> {
        finite::check_tensor(
            self.contents.file_of(stored),
            name,
            stored.dtype,
            &stored.shape,
            self.bytes_of(stored)?,
        )
    }

    fn bytes_of(&self, stored: &Stored) -> Result<&[u8]> {
        let file = self.bytes.get(stored.file).and_then(|file| file.get(stored.range.clone()));
        file.ok_or_else(|| Error::internal("a tensor lies outside its file"))
    }

    /// A tensor in float32.
    pub(super) fn tensor(&self, stored: &Stored) -> Result<Tensor> {
        let dtype = stored.check_type()?;
        let bytes = self.bytes_of(stored)?;
        Ok(Tensor::from_raw_buffer(bytes, dtype, &stored.shape, &Device::Cpu)?.to_dtype(DType::F32)?)
    }
}

/// The header, and where the bytes of tensors begin.
fn header(path: &Path, size: u64, mut file: impl Read) -> Result<(Metadata, usize)> {
    let failed = |error: std::io::Error| Error::io("read", path, &error);
    let mut head = Vec::new();
    file.by_ref().take(8).read_to_end(&mut head).map_err(failed)?;
    let length = head.iter().rev().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
    let fits = head.len() == 8 && length <= MAX_HEADER && length <= size.saturating_sub(8);
    let room = if fits { length } else { model_file::HEAD as u64 };
    file.take(room).read_to_end(&mut head).map_err(failed)?;
    // The length of a header may have any bytes, so what begins as a header is none of the others.
    let begins_as_header = fits && head.get(8) == Some(&b'{');
    if let Some(what) = model_file::instead(&head).filter(|_| !begins_as_header) {
        return Err(Error::corrupt(format!("{} {what}", path.display())));
    }
    if !fits {
        let begins_as_one = head.get(8) == Some(&b'{') && length <= MAX_HEADER;
        return Err(match begins_as_one {
            true => damaged(path, "it ends within its header"),
            false => Error::corrupt(format!("{} is no safetensors file; fetch it again", path.display())),
        });
    }
    let text = head.get(8..).unwrap_or_default();
    let metadata: Metadata =
        serde_json::from_slice(text).map_err(|error| damaged(path, &error.to_string()))?;
    let expected = 8 + length + metadata.data_len() as u64;
    if size != expected {
        return Err(damaged(path, &format!("it has {size} bytes, its header promises {expected}")));
    }
    Ok((metadata, 8 + length as usize))
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::corrupt(format!("{} is truncated or damaged ({why}); fetch it again", path.display()))
}

/// The first few names of a list, and how many more there are.
pub(super) fn shown(names: &[&str]) -> String {
    let first = names.get(..SHOWN.min(names.len())).unwrap_or_default().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(bytes: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(WEIGHTS), bytes).unwrap();
        folder
    }

    /// A file without tensors whose header has this length.
    fn empty(length: usize) -> Vec<u8> {
        let header = format!("{{}}{}", " ".repeat(length - 2));
        [&(length as u64).to_le_bytes(), header.as_bytes()].concat()
    }

    #[test]
    fn a_header_may_have_any_length() {
        // The last one begins as a gzip file does.
        for length in [2, 8, 0x8b1f] {
            let folder = folder(&empty(length));
            assert_eq!(Contents::read(folder.path()).unwrap().names().count(), 0);
            assert_eq!(Weights::read(folder.path()).unwrap().sha256(), digest::of_bytes(&empty(length)));
        }
    }

    #[test]
    fn a_header_that_promises_too_much_is_refused_before_anything_of_its_size_is_made() {
        for length in [u64::MAX, MAX_HEADER + 1, 1 << 20] {
            let folder = folder(&[&length.to_le_bytes()[..], b"{\"a\""].concat());
            for error in [
                Contents::read(folder.path()).map(drop).unwrap_err(),
                Weights::read(folder.path()).map(drop).unwrap_err(),
            ] {
                assert!(error.message().contains(WEIGHTS), "{error}");
            }
        }
    }

    #[test]
    fn lists_of_names_are_short() {
        assert_eq!(shown(&["a", "b", "c"]), "a, b, c");
        assert_eq!(shown(&["a", "b", "c", "d", "e"]), "a, b, c and 2 more");
    }
}
