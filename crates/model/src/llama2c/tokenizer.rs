//! The tokenizer of llama2.c (`tokenizer.bin`): scored pieces of SentencePiece, as a `tokenizer.json`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Tokens before those of single bytes: unknown, beginning and end of a text.
const SPECIAL: [&str; 3] = ["<unk>", "<s>", "</s>"];
/// Tokens before those of text.
const BEFORE_TEXT: usize = SPECIAL.len() + 256;

/// What `tokenizer.json` says of the first tokens of a `tokenizer.bin`, as many as the vocabulary has: its pieces are joined in the order of their scores, the best first, as llama2.c
/// does; text begins with a space; what has no piece is bytes.
pub(crate) fn tokenizer_json(bytes: &[u8], vocabulary: usize) -> Result<Value, String> {
    let pieces = pieces(bytes, vocabulary)?;
    let mut ids: BTreeMap<String, usize> = BTreeMap::new();
    for (id, piece) in pieces.iter().enumerate() {
        if let Some(other) = ids.insert(piece.text.clone(), id) {
            return Err(format!("tokens {other} and {id} are both \"{}\"", piece.text.escape_debug()));
        }
    }
    // Every way to join two pieces to a third.
    let mut joins = Vec::new();
    for (id, piece) in pieces.iter().enumerate().skip(BEFORE_TEXT) {
        for (at, _) in piece.text.char_indices().skip(1) {
            let (left, right) = piece.text.split_at(at);
            if let (Some(left_id), Some(right_id)) = (ids.get(left), ids.get(right)) {
                joins.push((-piece.score, (id, left_id, right_id), [left, right]));
            }
        }
    }
    joins.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let merges: Vec<[&str; 2]> = joins.into_iter().map(|(.., parts)| parts).collect();
    let special = |(id, text)| json!({ "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true });
    let added: Vec<Value> = SPECIAL.into_iter().enumerate().map(special).collect();
    Ok(json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": SPACE.to_string() },
            { "type": "Replace", "pattern": { "String": " " }, "content": SPACE.to_string() },
        ] },
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": SPACE.to_string() }, "content": " " },
            { "type": "ByteFallback" },
            { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
        ] },
        "model": { "type": "BPE", "dropout": null, "unk_token": SPECIAL[0], "fuse_unk": true, "byte_fallback": true, "vocab": ids, "merges": merges },
    }))
}

/// What SentencePiece writes for a space.
const SPACE: char = '\u{2581}';

struct Piece {
    text: String,
    score: f32,
}

fn pieces(bytes: &[u8], vocabulary: usize) -> Result<Vec<Piece>, String> {
    let word = |at: usize| bytes.get(at..at + 4).and_then(|bytes| bytes.first_chunk::<4>()).copied();
    let (mut pieces, mut at) = (Vec::new(), 4);
    for id in 0..vocabulary {
        let cut = || format!("it ends within or before token {id}, and the model has {vocabulary}");
        let (score, len) = word(at).zip(word(at + 4)).ok_or_else(cut)?;
        let len = usize::try_from(i32::from_le_bytes(len)).map_err(|_| format!("token {id} has a negative length"))?;
        at += 8;
        let text = at.checked_add(len).and_then(|end| bytes.get(at..end)).ok_or_else(cut)?;
        at += len;
        let text = std::str::from_utf8(text).map_err(|_| format!("token {id} is not UTF-8"))?;
        let score = f32::from_le_bytes(score);
        if score.is_nan() {
            return Err(format!("token {id} has no score"));
        }
        let special = SPECIAL.get(id).map(|text| (*text).to_owned());
        let text = match special {
            Some(text) => text,
            None if id < BEFORE_TEXT => format!("<0x{:02X}>", id - SPECIAL.len()),
            None if text.is_empty() => return Err(format!("token {id} is empty")),
            None => text.replace(' ', SPACE.encode_utf8(&mut [0; 4])),
        };
        pieces.push(Piece { text, score });
    }
    Ok(pieces)
}
