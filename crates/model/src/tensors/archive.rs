//! Zip archives, as torch and numpy write them: where in the file each entry lies, so that tensors are mapped and not copied.
//!
//! Of reading, only the directory is done here. Entries must lie apart from each other and inside the file, and names must differ.

use std::ops::Range;

use flate2::Crc;

/// No archive of tensors has more entries.
const MOST_ENTRIES: u64 = 1 << 20;

/// The first bytes of every archive.
pub(super) const MAGIC: &[u8] = b"PK\x03\x04";

/// A file of an archive.
pub(super) struct Entry {
    pub(super) name: String,
    /// Where its bytes are, as they are stored.
    pub(super) bytes: Range<usize>,
    /// How many bytes there are when it is inflated; `None` if it is stored as it is.
    pub(super) inflated: Option<u64>,
    pub(super) crc: u32,
}

/// The entries of an archive, in the order of the file.
pub(super) fn entries(file: &[u8]) -> Result<Vec<Entry>, String> {
    let (count, directory) = directory(file)?;
    let mut at = file.get(directory).ok_or("its directory lies past its end; is it cut short?")?;
    let mut entries = Vec::new();
    let mut taken: Vec<Range<usize>> = Vec::new();
    for _ in 0..count {
        let fixed = take(&mut at, 46)?;
        if fixed[..4] != *b"PK\x01\x02" {
            return Err("its directory is damaged".into());
        }
        let [name, extra, comment] = [28, 30, 32].map(|place| u16_at(fixed, place) as usize);
        let name = take(&mut at, name)?;
        let name = std::str::from_utf8(name).map_err(|_| "the name of an entry is not UTF-8")?.to_owned();
        let (flags, method) = (u16_at(fixed, 8), u16_at(fixed, 10));
        let sizes = [u32_at(fixed, 24), u32_at(fixed, 20), u32_at(fixed, 42)];
        let [size, packed, start] = wide(sizes, take(&mut at, extra)?).ok_or("the size of an entry is damaged")?;
        take(&mut at, comment)?;
        if flags & 1 != 0 {
            return Err(format!("entry `{}` is encrypted", name.escape_debug()));
        }
        let bytes = data(file, start, packed)
            .ok_or_else(|| format!("entry `{}` lies past its end; is it cut short?", name.escape_debug()))?;
        let inflated = match method {
            0 if size == packed => None,
            8 => Some(size),
            0 => return Err(format!("entry `{}` has two sizes", name.escape_debug())),
            _ => return Err(format!("entry `{}` is compressed in a way that is not read", name.escape_debug())),
        };
        taken.push(start as usize..bytes.end);
        entries.push(Entry { name, bytes, inflated, crc: u32_at(fixed, 16) });
    }
    taken.sort_unstable_by_key(|range| range.start);
    if taken.windows(2).any(|pair| pair[0].end > pair[1].start) {
        return Err("two entries overlap".into());
    }
    let mut names: Vec<&str> = entries.iter().map(|entry| &*entry.name).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("it holds `{}` twice", pair[0].escape_debug())),
        None => Ok(entries),
    }
}

/// Number of entries, and where their directory is.
fn directory(file: &[u8]) -> Result<(u64, Range<usize>), String> {
    // The end record is 22 bytes, behind which a comment of at most 65,535 may follow.
    let first = file.len().saturating_sub(22 + 0xFFFF);
    let end = file[first..].windows(4).rposition(|four| four == b"PK\x05\x06").map(|place| first + place);
    let end = end.filter(|end| end + 22 <= file.len()).ok_or("it has no directory at its end; is it cut short?")?;
    let record = &file[end..];
    let mut count = u16_at(record, 10) as u64;
    let (mut size, mut start) = (u32_at(record, 12) as u64, u32_at(record, 16) as u64);
    if count == 0xFFFF || size == 0xFFFF_FFFF || start == 0xFFFF_FFFF {
        let damaged = "its zip64 directory is damaged";
        let locator = end.checked_sub(20).map(|place| &file[place..end]).ok_or(damaged)?;
        if locator[..4] != *b"PK\x06\x07" {
            return Err(damaged.into());
        }
        let record = usize::try_from(u64_at(locator, 8)).ok().and_then(|place| file.get(place..)?.get(..56));
        let record = record.filter(|record| record[..4] == *b"PK\x06\x06").ok_or(damaged)?;
        [count, size, start] = [32, 40, 48].map(|place| u64_at(record, place));
    }
    if count > MOST_ENTRIES {
        return Err(format!("its directory has {count} entries; at most {MOST_ENTRIES} are read"));
    }
    let end = start.checked_add(size).filter(|end| *end <= file.len() as u64);
    let end = end.ok_or("its directory lies past its end; is it cut short?")?;
    Ok((count, start as usize..end as usize))
}

/// Where the bytes of an entry are whose header is at `start`.
fn data(file: &[u8], start: u64, packed: u64) -> Option<Range<usize>> {
    let header = file.get(usize::try_from(start).ok()?..)?.get(..30)?;
    if &header[..4] != MAGIC {
        return None;
    }
    let first = start + 30 + u16_at(header, 26) as u64 + u16_at(header, 28) as u64;
    let end = first.checked_add(packed).filter(|end| *end <= file.len() as u64)?;
    Some(first as usize..end as usize)
}

/// Sizes and place of an entry; those that do not fit 32 bits are in the zip64 field of `extra`, in this order.
fn wide(narrow: [u32; 3], mut extra: &[u8]) -> Option<[u64; 3]> {
    let mut sizes = narrow.map(u64::from);
    while narrow.contains(&u32::MAX) && extra.len() >= 4 {
        let (id, len) = (u16_at(extra, 0), u16_at(extra, 2) as usize);
        let mut field = extra.get(4..4 + len)?;
        extra = &extra[4 + len..];
        if id == 1 {
            for size in sizes.iter_mut().filter(|size| **size == u32::MAX as u64) {
                *size = u64_at(take(&mut field, 8).ok()?, 0);
            }
            break;
        }
    }
    Some(sizes)
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8], &'static str> {
    let (taken, rest) = bytes.split_at_checked(len).ok_or("its directory is cut short")?;
    *bytes = rest;
    Ok(taken)
}

fn u16_at(bytes: &[u8], place: usize) -> u16 {
    u16::from_le_bytes([bytes[place], bytes[place + 1]])
}

fn u32_at(bytes: &[u8], place: usize) -> u32 {
    u32_from(&bytes[place..place + 4])
}

fn u32_from(four: &[u8]) -> u32 {
    four.iter().rev().fold(0, |number, byte| number << 8 | *byte as u32)
}

fn u64_at(bytes: &[u8], place: usize) -> u64 {
    (u32_at(bytes, place + 4) as u64) << 32 | u32_at(bytes, place) as u64
}

/// An archive of these files, stored as they are; `None` if it would be larger than its directory can say.
pub(super) fn archive(files: &[(String, Vec<u8>)]) -> Option<Vec<u8>> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in files {
        let mut crc = Crc::new();
        crc.update(data);
        let [start, len] = [bytes.len(), data.len()].map(|n| u32::try_from(n).ok());
        let [start, len, crc] = [start?, len?, crc.sum()].map(u32::to_le_bytes);
        // Version 2.0, no flags, stored, 1 January 1980.
        let head = [20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
        let sizes = [&crc[..], &len, &len, &u16::try_from(name.len()).ok()?.to_le_bytes(), &[0, 0]].concat();
        bytes.extend([MAGIC, &head, &sizes, name.as_bytes(), data].concat());
        directory.extend([b"PK\x01\x02\x14\0", &head[..], &sizes, &[0; 10], &start, name.as_bytes()].concat());
    }
    let count = u16::try_from(files.len()).ok()?.to_le_bytes();
    let [size, start] = [directory.len(), bytes.len()].map(|n| u32::try_from(n).ok());
    let [size, start] = [size?, start?].map(u32::to_le_bytes);
    bytes.extend([&directory[..], b"PK\x05\x06\0\0\0\0", &count, &count, &size, &start, &[0, 0]].concat());
    Some(bytes)
}
