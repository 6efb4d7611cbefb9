//! Text to token ids and back.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, LazyLock, OnceLock};

use rayon::prelude::*;
use tokenizers::models::ModelWrapper;
use tokenizers::{Decoder, DecoderWrapper};

use crate::Settings;
use crate::error::{Error, Result, caught, excerpt, listing};

/// What stands for a token that has no text of its own.
const REPLACEMENT: &str = "\u{FFFD}";

/// A model's tokenizer. Cloning it is cheap.
#[derive(Clone)]
pub struct Tokenizer {
    shared: Arc<Shared>,
}

struct Shared {
    tokenizer: tokenizers::Tokenizer,
    vocab_size: usize,
    bos: Option<(u32, String)>,
    /// Tokens that would look like another one.
    ambiguous: OnceLock<HashSet<u32>>,
}

/// The files of a model's folder that a [`Tokenizer`] is made of.
#[derive(Debug, Clone, Copy)]
pub struct TokenizerFiles<'a> {
    /// What messages call the folder.
    pub folder: &'a str,
    /// `tokenizer.json`.
    pub tokenizer: &'a [u8],
    /// `tokenizer_config.json`: its `bos_token` begins prompts.
    pub tokenizer_config: Option<&'a [u8]>,
    /// `config.json`: its `bos_token_id` begins prompts where the former names no token.
    pub config: Option<&'a [u8]>,
}

impl Tokenizer {
    /// Makes a tokenizer of the files of a model's folder.
    ///
    /// Truncation and padding, which a tokenizer file may ask for, are turned off, and so is BPE dropout, which would
    /// make tokens random.
    ///
    /// # Errors
    /// [`Error::TokenizerFile`] if one of the files cannot be understood.
    pub fn from_files(files: TokenizerFiles) -> Result<Tokenizer> {
        let unusable = |reason: &str| files.unusable("tokenizer.json", reason);
        let mut tokenizer = caught(|| tokenizers::Tokenizer::from_bytes(files.tokenizer))
            .map_err(|panic| unusable(&panic))?
            .map_err(|error| unusable(&error.to_string()))?;
        tokenizer.with_truncation(None).map_err(|error| unusable(&error.to_string()))?.with_padding(None);
        if let ModelWrapper::BPE(bpe) = tokenizer.get_model()
            && bpe.dropout.is_some()
        {
            let mut bpe = bpe.clone();
            bpe.dropout = None;
            tokenizer.with_model(bpe);
        }

        let vocab_size = tokenizer.get_vocab(true).into_values().max().map_or(0, |largest| largest as usize + 1);
        let bos = files.bos(&tokenizer)?;
        let mut loaded =
            Tokenizer { shared: Arc::new(Shared { tokenizer, vocab_size, bos: None, ambiguous: OnceLock::new() }) };
        let bos = bos.map(|id| (id, loaded.own_text(id)));
        if let Some(shared) = Arc::get_mut(&mut loaded.shared) {
            shared.bos = bos;
        }
        Ok(loaded)
    }

    /// The token ids of a text. No special token is added; one that is written in the text, such as `<|endoftext|>`,
    /// becomes its own id.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer has no token for a part of the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match caught(|| self.shared.tokenizer.encode_fast(text, false)) {
            Ok(Ok(encoding)) => Ok(encoding.get_ids().to_vec()),
            Ok(Err(error)) => Err(Error::Tokenizer { reason: excerpt(&error.to_string()) }),
            Err(reason) => Err(Error::Tokenizer { reason }),
        }
    }

    /// The text of token ids, special tokens included. An id outside the vocabulary, and bytes that are no UTF-8, give
    /// the replacement character.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the tokenizer's decoder fails.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        let tokenizer = &self.shared.tokenizer;
        let pieces: Vec<String> =
            tokens.iter().map(|&id| tokenizer.id_to_token(id).unwrap_or_else(|| REPLACEMENT.into())).collect();
        let Some(decoder) = tokenizer.get_decoder() else { return Ok(pieces.concat()) };
        match caught(|| decoder.decode(pieces)) {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(error)) => Err(Error::Tokenizer { reason: excerpt(&error.to_string()) }),
            Err(reason) => Err(Error::Tokenizer { reason }),
        }
    }

    /// The text of one token inside a prompt, as a person should see it: `" said"`, `"\n"`, `".\""`. Bytes that are only part of
    /// a character are escaped, `\xC3`; what has no text is `[id]`, and where several tokens have the same text it stands
    /// behind it. So no two tokens look alike.
    pub fn token_text(&self, token: u32) -> String {
        let text = self.own_text(token);
        if self.ambiguous().contains(&token) { format!("{text}[{token}]") } else { text }
    }

    /// The texts of tokens that follow each other, to be joined. A character that several tokens make together is the text of the
    /// first of them, and the others' is empty, as far as `alike(i)` says that tokens `i` and `i + 1` are shown in the same
    /// way; elsewhere its parts are escaped as in [`token_text`](Tokenizer::token_text).
    pub fn pieces(&self, tokens: &[u32], alike: impl Fn(usize) -> bool) -> Vec<String> {
        let mut pieces = vec![String::new(); tokens.len()];
        let mut start = 0;
        for end in 1..=tokens.len() {
            if end == tokens.len() || !alike(end - 1) {
                self.join(tokens, start..end, &mut pieces);
                start = end;
            }
        }
        pieces
    }

    fn join(&self, tokens: &[u32], run: Range<usize>, pieces: &mut [String]) {
        let mut bytes = Vec::new();
        let mut owners = Vec::new();
        for i in run {
            bytes.extend(self.bytes(tokens[i]));
            owners.resize(bytes.len(), i);
        }
        let mut at = 0;
        for chunk in bytes.utf8_chunks() {
            for c in chunk.valid().chars() {
                pieces[owners[at]].push(c);
                at += c.len_utf8();
            }
            for byte in chunk.invalid() {
                pieces[owners[at]] += &escaped(*byte);
                at += 1;
            }
        }
    }

    /// The text of a token, whatever others have; not empty.
    fn own_text(&self, token: u32) -> String {
        self.bytes(token).utf8_chunks().fold(String::new(), |text, chunk| {
            let parts: String = chunk.invalid().iter().map(|byte| escaped(*byte)).collect();
            text + chunk.valid() + &parts
        })
    }

    /// The bytes that a token is of a text, which may begin or end within a character; `[id]` where there are none.
    pub fn bytes(&self, token: u32) -> Vec<u8> {
        self.written(token).filter(|bytes| !bytes.is_empty()).unwrap_or_else(|| format!("[{token}]").into_bytes())
    }

    fn written(&self, token: u32) -> Option<Vec<u8>> {
        let tokenizer = &self.shared.tokenizer;
        let name = tokenizer.id_to_token(token)?;
        let of_byte_level = || name.chars().map(|c| BYTES.get(&c).copied()).collect::<Option<Vec<u8>>>();
        if let Some(DecoderWrapper::ByteLevel(_)) = tokenizer.get_decoder() {
            return Some(of_byte_level().unwrap_or_else(|| name.clone().into_bytes()));
        }
        // Some decoders drop the space before a text's first token, so the token is read as the second of two.
        let alone = self.decode(&[token]).ok()?;
        let text = match self.decode(&[token, token]) {
            Ok(twice) => twice.strip_prefix(&alone).filter(|second| !second.is_empty()).unwrap_or(&alone).to_owned(),
            Err(_) => alone,
        };
        if !text.contains(char::REPLACEMENT_CHARACTER) {
            return Some(text.into_bytes());
        }
        let byte = name.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
        let byte = byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()).map(|byte| vec![byte]);
        Some(byte.or_else(of_byte_level).unwrap_or_else(|| text.into_bytes()))
    }

    fn ambiguous(&self) -> &HashSet<u32> {
        self.shared.ambiguous.get_or_init(|| {
            let mut texts: Vec<(String, u32)> =
                (0..self.shared.vocab_size as u32).into_par_iter().map(|token| (self.own_text(token), token)).collect();
            texts.par_sort_unstable();
            let same = |pair: &[(String, u32)]| pair[0].0 == pair[1].0;
            texts.windows(2).filter(|pair| same(pair)).flat_map(|pair| [pair[0].1, pair[1].1]).collect()
        })
    }

    /// The id of a text that is exactly one token.
    ///
    /// # Errors
    /// [`Error::NotOneToken`] with the tokens the text splits into, and [`Error::Tokenizer`].
    pub fn single_token(&self, text: &str) -> Result<u32> {
        let tokens = self.encode(text)?;
        if let [token] = tokens[..] {
            return Ok(token);
        }
        let other = match text.strip_prefix(' ') {
            Some(without_space) => without_space.to_owned(),
            None => format!(" {text}"),
        };
        let hint = match self.encode(&other) {
            Ok(ids) if ids.len() == 1 => format!("{other:?} is one"),
            _ => "choose a text that is a single token".into(),
        };
        let pieces = listing(tokens.iter().map(|&token| self.token_text(token)));
        Err(Error::NotOneToken { text: text.chars().take(100).collect(), count: tokens.len(), pieces, hint })
    }

    /// One more than the largest token id, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.shared.vocab_size
    }

    /// The id of the token that begins a prompt, if the model's folder names one.
    pub fn bos(&self) -> Option<u32> {
        self.shared.bos.as_ref().map(|(id, _)| *id)
    }

    /// The text of the token that begins a prompt, if the model's folder names one.
    pub fn bos_text(&self) -> Option<&str> {
        self.shared.bos.as_ref().map(|(_, text)| text.as_str())
    }
}

/// A byte that is only part of a character.
fn escaped(byte: u8) -> String {
    format!("\\x{byte:02X}")
}

/// The bytes that the characters of byte-level tokens stand for (GPT-2's `bytes_to_unicode`): those that can be seen for
/// themselves, the others from 256 on.
static BYTES: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
    let seen = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let (visible, others): (Vec<u8>, Vec<u8>) = (0..=u8::MAX).partition(seen);
    let others = others.into_iter().zip(256_u32..).filter_map(|(byte, code)| Some((char::from_u32(code)?, byte)));
    visible.into_iter().map(|byte| (char::from(byte), byte)).chain(others).collect()
});

/// The texts of tokens that follow each other, as [`Tokenizer::pieces`]; `[id]` without a tokenizer.
pub fn pieces(tokenizer: Option<&Tokenizer>, tokens: &[u32], alike: impl Fn(usize) -> bool) -> Vec<String> {
    match tokenizer {
        Some(tokenizer) => tokenizer.pieces(tokens, alike),
        None => tokens.iter().map(|token| token_text(None, *token)).collect(),
    }
}

/// A token as a person should see it: its [text](Tokenizer::token_text), or `[id]` without a tokenizer.
pub fn token_text(tokenizer: Option<&Tokenizer>, token: u32) -> String {
    tokenizer.map_or_else(|| format!("[{token}]"), |tokenizer| tokenizer.token_text(token))
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("bos", &self.shared.bos)
            .finish_non_exhaustive()
    }
}

impl TokenizerFiles<'_> {
    fn bos(&self, tokenizer: &tokenizers::Tokenizer) -> Result<Option<u32>> {
        let config = self.settings("tokenizer_config.json", self.tokenizer_config)?;
        if let Some(token) = config.as_ref().and_then(|config| config.find_some("bos_token")) {
            let text = if token.is_object() {
                token.object()?.get("content")?.text()?.to_owned()
            } else {
                token.text()?.to_owned()
            };
            let id = tokenizer.token_to_id(&text);
            return id.map(Some).ok_or_else(|| token.wrong("a token of the vocabulary"));
        }
        let config = self.settings("config.json", self.config)?;
        let Some(token) = config.as_ref().and_then(|config| config.find_some("bos_token_id")) else { return Ok(None) };
        let id = token.index(u32::MAX as usize)? as u32;
        if tokenizer.id_to_token(id).is_none() {
            return Err(token.wrong("a token id of the tokenizer"));
        }
        Ok(Some(id))
    }

    /// A file's settings, if there is such a file.
    fn settings(&self, file: &str, bytes: Option<&[u8]>) -> Result<Option<Settings>> {
        bytes.map(|bytes| Settings::parse(&format!("{}/{file}", self.folder), bytes)).transpose()
    }

    fn unusable(&self, file: &str, reason: &str) -> Error {
        Error::TokenizerFile { path: format!("{}/{file}", self.folder), reason: excerpt(reason) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{REPLACEMENT, Tokenizer, TokenizerFiles};
    use crate::{Error, Result};

    pub(crate) static SHIPPED: LazyLock<Tokenizer> = LazyLock::new(|| {
        let file = |name: &str| std::fs::read(format!("../../assets/tinystories-2l/{name}")).unwrap();
        let (tokenizer, config) = (file("tokenizer.json"), file("tokenizer_config.json"));
        let tokenizer_config = Some(config.as_slice());
        Tokenizer::from_files(TokenizerFiles { folder: "x", tokenizer: &tokenizer, tokenizer_config, config: None })
            .unwrap()
    });

    fn shipped() -> Tokenizer {
        SHIPPED.clone()
    }

    /// The tokenizer of files of the given names and content.
    fn of_files(files: &[(&str, Value)]) -> Result<Tokenizer> {
        let file = |wanted: &str| {
            files.iter().find(|(name, _)| *name == wanted).map(|(_, content)| content.to_string().into_bytes())
        };
        let [tokenizer, tokenizer_config, config] =
            ["tokenizer.json", "tokenizer_config.json", "config.json"].map(file);
        let files = TokenizerFiles {
            folder: "x",
            tokenizer: tokenizer.as_deref().unwrap(),
            tokenizer_config: tokenizer_config.as_deref(),
            config: config.as_deref(),
        };
        Tokenizer::from_files(files)
    }

    fn shipped_json() -> Value {
        serde_json::from_slice(&std::fs::read("../../assets/tinystories-2l/tokenizer.json").unwrap()).unwrap()
    }

    #[test]
    fn the_shipped_tokenizer_knows_its_size_and_bos() {
        let tokenizer = shipped();
        assert_eq!(tokenizer.vocab_size(), 4096);
        assert_eq!((tokenizer.bos(), tokenizer.bos_text()), (Some(0), Some("<|endoftext|>")));
    }

    #[test]
    fn encoding_adds_nothing_and_reads_special_tokens_in_the_text() {
        let tokenizer = shipped();
        assert!(tokenizer.encode("").unwrap().is_empty());
        let tokens = tokenizer.encode("Tim said<|endoftext|>").unwrap();
        assert_eq!(tokens.iter().filter(|&&token| token == 0).count(), 1);
        assert_eq!(tokens.last(), Some(&0));
    }

    #[test]
    fn a_single_token_is_found_and_others_are_explained() {
        let tokenizer = shipped();
        let token = tokenizer.single_token(".\"").unwrap();
        assert_eq!(tokenizer.token_text(token), ".\"");
        assert_eq!(tokenizer.encode(".\"").unwrap(), [token]);

        let error = tokenizer.single_token("hello there").unwrap_err();
        assert!(matches!(&error, Error::NotOneToken { text, count, .. } if text == "hello there" && *count > 1));
        assert!(error.to_string().contains("` there`"), "{error}");
        assert!(tokenizer.single_token("").unwrap_err().to_string().contains("nothing"));
        let hint = tokenizer.single_token("broccoli").unwrap_err().to_string();
        assert!(hint.contains("\" broccoli\" is one"), "{hint}");
    }

    #[test]
    fn a_token_is_shown_as_its_text() {
        let tokenizer = shipped();
        for text in [" said", "\n", "Once", ",", " a"] {
            assert_eq!(tokenizer.token_text(tokenizer.single_token(text).unwrap()), text);
        }
        assert_eq!(tokenizer.token_text(0), "<|endoftext|>");
        assert_eq!(tokenizer.token_text(4096), "[4096]");
        assert_eq!(tokenizer.token_text(u32::MAX), "[4294967295]");
    }

    #[test]
    fn no_two_tokens_look_alike() {
        let tokenizer = shipped();
        let texts: std::collections::HashSet<String> = (0..4096).map(|token| tokenizer.token_text(token)).collect();
        assert_eq!(texts.len(), 4096);
        assert!(texts.iter().all(|text| !text.is_empty() && !text.contains(REPLACEMENT)));

        // A decoder that puts a space before words alone, and one of bytes beside their characters.
        let pieces = json!({ "ing": 0, "##ing": 1, "[UNK]": 2, "a": 3 });
        let word_piece = json!({ "type": "WordPiece", "prefix": "##", "cleanup": false });
        let model = json!({ "type": "WordPiece", "vocab": pieces, "unk_token": "[UNK]",
            "continuing_subword_prefix": "##", "max_input_chars_per_word": 100 });
        let tokenizer = with_decoder(word_piece, model);
        assert_eq!([0, 1, 3].map(|t| tokenizer.token_text(t)), [" ing", "ing", " a"].map(str::to_owned));
        let tokenizer = byte_fallback();
        assert_eq!(
            [1, 2, 3, 4].map(|t| tokenizer.token_text(t)),
            ["a[1]", "a[2]", "\\xC3", "\\xA9"].map(str::to_owned)
        );
    }

    fn with_decoder(decoder: Value, model: Value) -> Tokenizer {
        let file = json!({
            "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
            "decoder": decoder, "model": model,
        });
        of_files(&[("tokenizer.json", file)]).unwrap()
    }

    /// Pieces with bytes for what they lack, as SentencePiece has.
    fn byte_fallback() -> Tokenizer {
        let vocab = json!({ "<unk>": 0, "a": 1, "<0x61>": 2, "<0xC3>": 3, "<0xA9>": 4 });
        let decoders = json!([{ "type": "ByteFallback" }, { "type": "Fuse" }]);
        let decoder = json!({ "type": "Sequence", "decoders": decoders });
        with_decoder(decoder, json!({ "type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": true }))
    }

    #[test]
    fn a_character_of_several_tokens_is_whole_where_they_are_shown_alike() {
        let tokenizer = byte_fallback();
        assert_eq!(tokenizer.pieces(&[1, 3, 4, 2], |_| true), ["a", "é", "", "a"]);
        assert_eq!(tokenizer.pieces(&[1, 3, 4, 2], |i| i != 1), ["a", "\\xC3", "\\xA9", "a"]);
        assert_eq!(tokenizer.pieces(&[3, 1, 4, 9], |_| true), ["\\xC3", "a", "\\xA9", "[9]"]);
        assert!(tokenizer.pieces(&[], |_| true).is_empty());
    }

    proptest! {
        #[test]
        fn the_pieces_of_a_text_are_the_text(text in "[a-z é漢🦀\u{301}\n]{0,30}", apart in any::<u64>()) {
            let tokenizer = SHIPPED.clone();
            let tokens = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(tokenizer.pieces(&tokens, |_| true).concat(), text.clone());
            let bytes: Vec<u8> = tokens.iter().flat_map(|token| tokenizer.bytes(*token)).collect();
            prop_assert_eq!(bytes, text.as_bytes());
            let pieces = tokenizer.pieces(&tokens, |i| apart >> (i % 64) & 1 == 0);
            prop_assert!(!pieces.concat().contains(REPLACEMENT));
        }
    }

    #[test]
    fn every_token_has_a_text_that_is_part_of_a_prompt() {
        let tokenizer = shipped();
        let comma = tokenizer.single_token(",").unwrap();
        for token in 0..4096 {
            let bytes = [b",", &tokenizer.bytes(token)[..]].concat();
            assert_eq!(String::from_utf8_lossy(&bytes), tokenizer.decode(&[comma, token]).unwrap());
        }
    }

    #[test]
    fn a_decoder_that_drops_the_first_space_keeps_it_in_a_tokens_text() {
        let tokenizer = of_files(&[(
            "tokenizer.json",
            json!({
                "version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
                "decoder": { "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true },
                "model": { "type": "WordLevel", "vocab": { "▁said": 0, "ing": 1, "[UNK]": 7 }, "unk_token": "[UNK]" },
            }),
        )])
        .unwrap();
        assert_eq!(tokenizer.decode(&[0, 1]).unwrap(), "saiding");
        assert_eq!((tokenizer.token_text(0), tokenizer.token_text(1)), (" said".into(), "ing".into()));
        assert_eq!((tokenizer.vocab_size(), tokenizer.bos()), (8, None));
    }

    #[test]
    fn truncation_padding_and_dropout_of_the_file_are_turned_off() {
        let mut file = shipped_json();
        file["truncation"] = json!({ "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0 });
        file["padding"] = json!({
            "strategy": { "Fixed": 8 }, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>",
        });
        file["model"]["dropout"] = json!(0.9);
        let changed = of_files(&[("tokenizer.json", file)]).unwrap();
        let text = "One day, Tim went to the store with his car.";
        assert_eq!(changed.encode(text).unwrap(), shipped().encode(text).unwrap());
    }

    #[test]
    fn bos_comes_from_the_tokenizers_config_or_else_the_models() {
        let bos = |files: &[(&str, Value)]| {
            let mut files = files.to_vec();
            files.push(("tokenizer.json", shipped_json()));
            of_files(&files).unwrap().bos()
        };
        let model = ("config.json", json!({ "bos_token_id": 5 }));
        assert_eq!(bos(&[]), None);
        assert_eq!(bos(std::slice::from_ref(&model)), Some(5));
        assert_eq!(bos(&[("tokenizer_config.json", json!({ "bos_token": null })), model.clone()]), Some(5));
        assert_eq!(bos(&[("tokenizer_config.json", json!({ "bos_token": { "content": "!" } })), model]), Some(1));
        assert_eq!(bos(&[("config.json", json!({ "bos_token_id": null }))]), None);
    }

    #[test]
    fn a_bos_that_is_none_is_an_error_and_not_no_bos() {
        let with = |file: &str, field: &str, wrong: &Value| {
            let error = of_files(&[("tokenizer.json", shipped_json()), (file, json!({ field: wrong }))]).unwrap_err();
            assert!(error.to_string().starts_with(&format!("x/{file}: `{field}")), "{error}");
        };
        for wrong in [json!(4096), json!(-1), json!("5"), json!(true), json!(0.5), json!([0])] {
            with("config.json", "bos_token_id", &wrong);
        }
        for wrong in [json!(0), json!("no such token"), json!(true), json!([0]), json!({ "content": 5 })] {
            with("tokenizer_config.json", "bos_token", &wrong);
        }
    }

    #[test]
    fn broken_tokenizer_files_are_errors_that_name_the_file() {
        let mut files = vec![json!(null), json!({}), json!({ "version": "9" })];
        let mut unknown_merge = shipped_json();
        unknown_merge["model"]["merges"][0] = json!(["no such", "token"]);
        files.push(unknown_merge);
        for file in files {
            let error = of_files(&[("tokenizer.json", file)]).unwrap_err();
            assert!(matches!(error, Error::TokenizerFile { .. }), "{error}");
            assert!(error.to_string().contains("`x/tokenizer.json`"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn text_survives_encoding_and_decoding(text in "\\PC{0,40}") {
            let tokenizer = shipped();
            let tokens = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
        }
    }
}
