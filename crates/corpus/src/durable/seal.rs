//! Checksums inside the files they are of.
//!
//! A sealed file holds `"crc32c":"XXXXXXXX"`, the first such text in it: the checksum of the whole file with zeros for the eight
//! digits. A JSON file carries it as a key, a safetensors file in its header.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{At, Beside, damaged};
use crate::Result;

/// The key that the checksum stands under.
const KEY: &str = "crc32c";
/// What stands for the checksum while it is computed.
const ZEROS: &str = "00000000";
/// The checksum stands within this many bytes.
const HEAD: usize = 1 << 12;

/// JSON with its checksum.
#[derive(Serialize, Deserialize)]
struct Sealed<T> {
    crc32c: String,
    #[serde(flatten)]
    content: T,
}

/// The key and the zeros that [`seal`] will replace, to be put near the beginning of a file's JSON.
pub fn unsealed() -> (&'static str, &'static str) {
    (KEY, ZEROS)
}

/// Puts the checksum of a file in the place of its zeros.
///
/// # Errors
/// [`Error::Write`](crate::Error::Write), and [`Error::Damaged`](crate::Error::Damaged) if the file has no such place.
pub fn seal(file: &mut Beside) -> Result<()> {
    let path = file.path().to_owned();
    let place = {
        let file = file.file();
        file.seek(SeekFrom::Start(0)).reading(&path)?;
        let mut head = Vec::new();
        file.take(HEAD as u64).read_to_end(&mut head).reading(&path)?;
        digits(&head).ok_or_else(|| damaged(&path, "it has no place for its checksum"))?
    };
    let mut bytes = vec![0; 1 << 20];
    let mut sum = 0;
    let file_now = file.file();
    file_now.seek(SeekFrom::Start(0)).reading(&path)?;
    loop {
        let n = file_now.read(&mut bytes).reading(&path)?;
        if n == 0 {
            break;
        }
        sum = crc32c::crc32c_append(sum, &bytes[..n]);
    }
    file.write_at(place.start as u64, format!("{sum:08x}").as_bytes())
}

/// Whether the bytes of the file at `path` are those that were sealed.
///
/// # Errors
/// [`Error::Damaged`](crate::Error::Damaged) if not.
pub fn check_seal(path: &Path, bytes: &[u8]) -> Result<()> {
    let place = digits(&bytes[..bytes.len().min(HEAD)]).ok_or_else(|| damaged(path, "it carries no checksum"))?;
    let sum = crc32c::crc32c(&bytes[..place.start]);
    let sum = crc32c::crc32c_append(sum, ZEROS.as_bytes());
    let sum = crc32c::crc32c_append(sum, &bytes[place.end..]);
    if format!("{sum:08x}").as_bytes() == &bytes[place] {
        return Ok(());
    }
    Err(damaged(path, "its bytes do not match its checksum"))
}

/// The bytes of a sealed file.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) if there is no such file, [`Error::Damaged`](crate::Error::Damaged) if its bytes are not those
/// that were sealed.
pub fn read_sealed(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).reading(path)?;
    check_seal(path, &bytes)?;
    Ok(bytes)
}

/// Writes a struct or map as JSON with its checksum, and waits until the disk has it.
///
/// # Errors
/// [`Error::Write`](crate::Error::Write); what stood at `path` before is still there then.
///
/// # Panics
/// If `value` is not a struct or map of plain data.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let sealed = Sealed { crc32c: ZEROS.into(), content: value };
    let mut text = serde_json::to_string_pretty(&sealed).expect("structs and maps of plain data serialise");
    text.push('\n');
    let mut file = Beside::create(path)?;
    file.write_at(0, text.as_bytes())?;
    seal(&mut file)?;
    file.sync()?;
    file.commit()
}

/// Reads what [`write_json`] wrote.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) if there is no such file, [`Error::Damaged`](crate::Error::Damaged) if its bytes are not those
/// that were written, or hold something else.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = read_sealed(path)?;
    let sealed: serde_json::Result<Sealed<T>> = serde_json::from_slice(&bytes);
    sealed.map(|sealed| sealed.content).map_err(|e| damaged(path, format!("it holds something else ({e})")))
}

/// Where the digits of the checksum stand.
fn digits(head: &[u8]) -> Option<Range<usize>> {
    let key = format!("\"{KEY}\":");
    let after = head.windows(key.len()).position(|window| window == key.as_bytes())? + key.len();
    let space = usize::from(head.get(after) == Some(&b' '));
    let start = after + space + 1;
    let end = start + ZEROS.len();
    (head.get(start - 1) == Some(&b'"') && head.get(end) == Some(&b'"')).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn json_is_read_as_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let value: BTreeMap<String, f64> = [("x".into(), 0.1 + 0.2), ("crc32c2".into(), 1e300)].into();
        write_json(&path, &value).unwrap();
        assert_eq!(read_json::<BTreeMap<String, f64>>(&path).unwrap(), value);
        assert!(serde_json::from_slice::<serde_json::Value>(&fs::read(&path).unwrap()).is_ok(), "and by anyone");
        fs::write(&path, "{}").unwrap();
        assert!(read_json::<serde_json::Value>(&path).unwrap_err().to_string().contains("carries no checksum"));
    }

    proptest! {
        #[test]
        fn a_changed_file_is_refused(
            values in prop::collection::vec(any::<u64>(), 0..20),
            place in any::<prop::sample::Index>(),
            change in 1_u8..,
            cut in any::<prop::sample::Index>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.json");
            let value: BTreeMap<&str, Vec<u64>> = [("values", values)].into();
            write_json(&path, &value).unwrap();
            let whole = fs::read(&path).unwrap();
            let mut bytes = whole.clone();
            bytes[place.index(whole.len())] ^= change;
            prop_assert!(check_seal(&path, &bytes).is_err());
            prop_assert!(check_seal(&path, &whole[..cut.index(whole.len())]).is_err());
            prop_assert!(check_seal(&path, &[&whole[..], b" "].concat()).is_err());
            prop_assert!(check_seal(&path, &whole).is_ok());
        }
    }
}
