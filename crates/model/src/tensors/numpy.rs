//! Archives of numpy: `.npz`, one `.npy` per array.

use std::io::Read;

use flate2::Crc;
use flate2::read::DeflateDecoder;

use super::archive::Entry;
use super::pickle::numpy as dtype_of;
use super::{Contents, Place, Tensor};

/// No archive inflates to more than this many bytes or this many times its size, whichever is more.
const INFLATED: (u64, u64) = (64 << 20, 16);
/// The header of an array is never longer.
const LONGEST_HEADER: usize = 1 << 16;
const MAGIC: &[u8] = b"\x93NUMPY";

/// Whether an archive is one of numpy.
pub(super) fn is_npz(entries: &[Entry]) -> bool {
    !entries.is_empty() && entries.iter().all(|entry| entry.name.strip_suffix(".npy").is_some())
}

/// What an archive of numpy holds.
pub(super) fn npz(file: &[u8], entries: &[Entry]) -> Result<Contents, String> {
    let most = INFLATED.0.max(INFLATED.1 * file.len() as u64);
    let inflated = entries.iter().try_fold(0, |sum: u64, entry| sum.checked_add(entry.inflated.unwrap_or(0)));
    if inflated.is_none_or(|inflated| inflated > most) {
        return Err(format!("it inflates to more than {most} bytes"));
    }
    let mut contents = Contents::default();
    for entry in entries {
        let name = entry.name.strip_suffix(".npy").unwrap_or(&entry.name);
        let tensor = array(file, entry).map_err(|problem| format!("array `{}`: {problem}", name.escape_debug()))?;
        contents.tensors.push((name.to_owned(), tensor));
    }
    Ok(contents)
}

fn array(file: &[u8], entry: &Entry) -> Result<Tensor, String> {
    let stored = &file[entry.bytes.clone()];
    let Some(len) = entry.inflated else {
        let (mut tensor, data) = header(stored)?;
        check_crc(entry, stored)?;
        let start = entry.bytes.start + data;
        tensor.place = Place::Bytes(start..entry.bytes.end);
        return Ok(tensor);
    };
    let mut bytes = Vec::new();
    // One byte more than there should be, so that more is noticed.
    let read = DeflateDecoder::new(stored).take(len + 1).read_to_end(&mut bytes);
    if read.is_err() || bytes.len() as u64 != len {
        return Err("it does not inflate to the size that the directory says".into());
    }
    check_crc(entry, &bytes)?;
    let (mut tensor, data) = header(&bytes)?;
    bytes.drain(..data);
    tensor.place = Place::Inflated(bytes);
    Ok(tensor)
}

fn check_crc(entry: &Entry, bytes: &[u8]) -> Result<(), String> {
    let mut crc = Crc::new();
    crc.update(bytes);
    if crc.sum() == entry.crc { Ok(()) } else { Err("its checksum does not match: the file is damaged".into()) }
}

/// The tensor that the header of a `.npy` file describes, without its place, and where its numbers start.
fn header(bytes: &[u8]) -> Result<(Tensor, usize), String> {
    let damaged = "its header is not one of numpy";
    let version = bytes.strip_prefix(MAGIC).and_then(|rest| rest.get(..2)).ok_or(damaged)?;
    let (len, start) = match version[0] {
        1 => (bytes.get(8..10).map(|len| u16::from_le_bytes([len[0], len[1]]) as usize), 10),
        2 | 3 => {
            let len = bytes.get(8..12).and_then(|len| len.try_into().ok());
            (len.map(|len| u32::from_le_bytes(len) as usize), 12)
        }
        _ => return Err(damaged.into()),
    };
    let len = len.filter(|len| *len <= LONGEST_HEADER).ok_or(damaged)?;
    let text = bytes.get(start..start + len).and_then(|text| std::str::from_utf8(text).ok()).ok_or(damaged)?;
    let descr = field(text, "descr").ok_or(damaged)?;
    let code = descr.strip_prefix('\'').and_then(|rest| rest.split_once('\'')).map(|(code, _)| code);
    let code = code.ok_or("its elements are records, which are not read")?;
    let dtype = match code {
        _ if code.contains('O') => return Err("its elements are objects of Python, which are never read".into()),
        _ if code.starts_with('>') => return Err("its numbers are not little-endian".into()),
        _ => dtype_of(code).ok_or_else(|| format!("its elements are `{}`, which are not read", code.escape_debug()))?,
    };
    let by_columns = match field(text, "fortran_order").ok_or(damaged)? {
        order if order.starts_with("True") => true,
        order if order.starts_with("False") => false,
        _ => return Err(damaged.into()),
    };
    let shape = field(text, "shape").and_then(|rest| rest.strip_prefix('(')?.split_once(')')).ok_or(damaged)?.0;
    let sizes = shape.split(',').map(str::trim).filter(|size| !size.is_empty());
    let shape = sizes.map(str::parse).collect::<Result<Vec<usize>, _>>().map_err(|_| damaged)?;
    let size = dtype.size().ok_or(damaged)?;
    let len = shape.iter().try_fold(size, |product, n| product.checked_mul(*n));
    let data = bytes.len() - start - text.len();
    if len != Some(data) {
        return Err(format!("its shape is {shape:?} of {size} bytes each, but it has {data} bytes"));
    }
    let mut strides = vec![1; shape.len()];
    let places: Vec<usize> = if by_columns { (0..shape.len()).collect() } else { (0..shape.len()).rev().collect() };
    for pair in places.windows(2) {
        strides[pair[1]] = strides[pair[0]] * shape[pair[0]].max(1);
    }
    Ok((Tensor { dtype, shape, strides, place: Place::Unread }, start + text.len()))
}

/// What follows the key of a header.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("'{key}':"))?;
    Some(rest.trim_start())
}
