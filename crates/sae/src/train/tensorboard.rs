//! Scalars as TensorBoard's event files.
//!
//! A file is a sequence of TFRecords (length, masked CRC-32C of the length, bytes, masked CRC-32C of the bytes), each a
//! protocol buffer `Event { 1: wall_time double, 2: step int64, 3: file_version string | 5: summary Summary }` with
//! `Summary { 1: repeated Value { 1: tag string, 2: simple_value float } }`.

use std::time::{SystemTime, UNIX_EPOCH};

/// The record that begins a file.
pub(super) fn beginning() -> Vec<u8> {
    let mut event = event_at(0);
    field_bytes(&mut event, 3, b"brain.Event:2");
    record(&event)
}

/// The record of a step's scalars.
pub(super) fn scalars(step: u64, values: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in values {
        let mut scalar = Vec::new();
        field_bytes(&mut scalar, 1, tag.as_bytes());
        key(&mut scalar, 2, 5);
        scalar.extend_from_slice(&(*value as f32).to_le_bytes());
        field_bytes(&mut summary, 1, &scalar);
    }
    let mut event = event_at(step);
    field_bytes(&mut event, 5, &summary);
    record(&event)
}

fn event_at(step: u64) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let mut event = Vec::new();
    key(&mut event, 1, 1);
    event.extend_from_slice(&now.to_le_bytes());
    key(&mut event, 2, 0);
    varint(&mut event, step);
    event
}

fn key(out: &mut Vec<u8>, field: u64, wire_type: u64) {
    varint(out, field << 3 | wire_type);
}

fn field_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    key(out, field, 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    [&length, &masked(&length).to_le_bytes()[..], bytes, &masked(bytes).to_le_bytes()].concat()
}

fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_carry_their_length_and_checksums() {
        let file = scalars(300, &[("l0", 2.5)]);
        let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        assert_eq!(file.len(), length + 16);
        // TensorFlow's own mask of the checksum of "123456789" (CRC-32C 0xe3069283).
        assert_eq!(masked(b"123456789"), 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8));
        let event = &file[12..12 + length];
        assert_eq!(event[9..12], [0x10, 0xac, 0x02], "step 300");
        assert!(event.windows(6).any(|w| w == [0x0a, 2, b'l', b'0', 0x15, 0]), "tag, then the key of a float");
        assert!(event.ends_with(&2.5_f32.to_le_bytes()));
    }
}
