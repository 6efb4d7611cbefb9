//! Text to token ids and back.

use std::fmt;
use std::sync::Arc;

use tokenizers::Decoder;
use tokenizers::models::ModelWrapper;

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
        let mut loaded = Tokenizer { shared: Arc::new(Shared { tokenizer, vocab_size, bos: None }) };
        let bos = bos.map(|id| (id, loaded.token_text(id)));
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

    /// The text of one token inside a prompt, as a person should see it: `" said"`, `"\n"`, `".\""`. An id outside the
    /// vocabulary, and bytes that are no UTF-8, give the replacement character.
    pub fn token_text(&self, token: u32) -> String {
        let Ok(alone) = self.decode(&[token]) else { return REPLACEMENT.into() };
        // Some decoders drop the space before a text's first token, so the token is read as the second of two.
        match self.decode(&[token, token]) {
            Ok(twice) => match twice.strip_prefix(&alone) {
                Some(second) if !second.is_empty() => second.into(),
                _ => alone,
            },
            Err(_) => alone,
        }
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
        assert_eq!(tokenizer.token_text(4096), REPLACEMENT);
        assert_eq!(tokenizer.token_text(u32::MAX), REPLACEMENT);
        let half = tokenizer.encode("é").unwrap();
        assert!(half.len() > 1 && tokenizer.token_text(half[0]) == REPLACEMENT);
    }

    #[test]
    fn every_token_has_a_text_that_is_part_of_a_prompt() {
        let tokenizer = shipped();
        let comma = tokenizer.single_token(",").unwrap();
        for token in 0..4096 {
            assert_eq!(format!(",{}", tokenizer.token_text(token)), tokenizer.decode(&[comma, token]).unwrap());
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
