//! Which files of a repository are needed.

use directrix_corpus::FORMATS;

use super::Repositories;

/// What reading a model needs beside its configuration and weights, where a repository has it.
const TOKENIZER: [&str; 2] = ["tokenizer.json", "tokenizer_config.json"];
/// The weights of a model: the first that a repository has, as transformers chooses.
const WEIGHTS: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];
/// Ends of the names of an SAE's files.
const OF_SAES: [&str; 9] = [".json", ".safetensors", ".pt", ".pth", ".bin", ".npz", ".yaml", ".yml", ".toml"];
/// So many names are shown in a message.
const SHOWN: usize = 12;

/// What is looked for in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Model,
    /// Of a model, its tokenizer alone.
    Tokenizer,
    Sae,
    Corpus,
}

impl Kind {
    /// Where the hub keeps it.
    pub(super) fn repositories(self) -> Repositories {
        match self {
            Kind::Model | Kind::Tokenizer | Kind::Sae => Repositories::Models,
            Kind::Corpus => Repositories::Datasets,
        }
    }

    /// The files that are needed, of those a repository has; or what is wrong with it. Both in the hub's order of names.
    pub(super) fn choose(self, files: &[&str], inside: Option<&str>) -> Result<Vec<String>, String> {
        match self {
            Kind::Model => model(files, inside),
            Kind::Tokenizer => tokenizer(files, inside),
            Kind::Sae => sae(files, inside),
            Kind::Corpus => corpus(files, inside),
        }
    }
}

/// Whether a file says by its name that it lists the files of weights.
pub(super) fn is_index(file: &str) -> bool {
    WEIGHTS.iter().any(|name| name.ends_with(".index.json") && below(file).1 == *name)
}

/// The tokenizer files beside a model's configuration.
pub(super) fn tokenizer_files(inside: Option<&str>) -> [String; 2] {
    TOKENIZER.map(|name| join(inside, name))
}

fn model(files: &[&str], inside: Option<&str>) -> Result<Vec<String>, String> {
    if let Some(file) = inside.filter(|inside| files.contains(inside)) {
        let (folder, _) = below(file);
        let is_beside = |other: &&&str| below(other).0 == folder && below(other).1.starts_with("tok");
        return Ok([file].into_iter().chain(files.iter().filter(is_beside).copied()).map(Into::into).collect());
    }
    let has = |name: &&str| files.contains(&&*join(inside, name));
    let place = inside.map_or_else(String::new, |inside| format!(" in `{inside}`"));
    if !has(&"config.json") {
        let folders = folders(files, |name| name == "config.json");
        let there = if folders.is_empty() { String::new() } else { format!("; there is one in {}", listed(&folders)) };
        return Err(format!("holds no config.json{place}, so that it is no model that can be read{there}"));
    }
    let Some(weights) = WEIGHTS.iter().find(|name| has(name)) else {
        return Err(format!("holds no weights{place} that can be read, which are {}", WEIGHTS.join(", ")));
    };
    let names = ["config.json", *weights].into_iter().chain(TOKENIZER.into_iter().filter(|name| has(name)));
    Ok(names.map(|name| join(inside, name)).collect())
}

fn tokenizer(files: &[&str], inside: Option<&str>) -> Result<Vec<String>, String> {
    let folder = inside.map(|inside| if files.contains(&inside) { below(inside).0 } else { inside });
    let folder = folder.filter(|folder| !folder.is_empty());
    let names = ["config.json"].into_iter().chain(TOKENIZER).map(|name| join(folder, name));
    let found: Vec<String> = names.filter(|name| files.contains(&&**name)).collect();
    if found.iter().any(|file| below(file).1 == TOKENIZER[0]) {
        return Ok(found);
    }
    // The tokenizer of a checkpoint of llama2.c is known by what it lies beside.
    let is_llama2c = |file: &&str| below(file).0 == folder.unwrap_or_default() && has_format(file, ".bin");
    if inside.is_some_and(|inside| files.contains(&inside)) && files.iter().filter(|file| is_llama2c(file)).count() > 1
    {
        return model(files, inside);
    }
    let place = folder.map_or_else(String::new, |folder| format!(" in `{folder}`"));
    Err(format!("holds no {}{place}", TOKENIZER[0]))
}

fn sae(files: &[&str], inside: Option<&str>) -> Result<Vec<String>, String> {
    if let Some(file) = inside.filter(|inside| files.contains(inside)) {
        let is_beside =
            |other: &&&str| below(other).0 == below(file).0 && has_format(other, ".json") && **other != file;
        return Ok([file].into_iter().chain(files.iter().filter(is_beside).copied()).map(Into::into).collect());
    }
    let is_of_sae = |name: &str| OF_SAES.iter().any(|end| name.ends_with(end));
    let is_weights = |name: &str| is_of_sae(name) && !OF_TEXT.iter().any(|end| name.ends_with(end));
    let folder = inside.unwrap_or_default();
    let direct = files.iter().filter(|file| below(file).0 == folder && is_of_sae(below(file).1));
    let found: Vec<String> = direct.map(|file| (*file).into()).collect();
    if found.iter().any(|file| is_weights(file)) {
        return Ok(found);
    }
    let llama_scope = LLAMA_SCOPE.map(|name| join(inside, name));
    if llama_scope.iter().all(|name| files.contains(&&**name)) {
        return Ok(llama_scope.into());
    }
    let prefix = inside.map_or_else(String::new, |inside| format!("{inside}/"));
    let outer = |folder: &str| {
        let parent = folder.strip_suffix("/checkpoints")?;
        files.contains(&&*join(Some(parent), LLAMA_SCOPE[0])).then_some(parent.len())
    };
    let whole = folders(files, is_weights).into_iter().map(|folder| &folder[..outer(folder).unwrap_or(folder.len())]);
    let further: Vec<_> = whole.filter(|folder| folder.starts_with(&prefix)).collect();
    let place = inside.map_or_else(String::new, |inside| format!(" in `{inside}`"));
    Err(if further.is_empty() {
        format!("holds no SAE{place}")
    } else {
        format!("holds no SAE directly{place}; name one of its folders behind a colon: {}", listed(&further))
    })
}

/// The files of an SAE of Llama Scope, whose weights lie one folder further in.
const LLAMA_SCOPE: [&str; 2] = ["hyperparams.json", "checkpoints/final.safetensors"];
/// Ends of the names of an SAE's files that hold no weights.
const OF_TEXT: [&str; 4] = [".json", ".yaml", ".yml", ".toml"];

fn corpus(files: &[&str], inside: Option<&str>) -> Result<Vec<String>, String> {
    let readable = || files.iter().filter(|file| FORMATS.iter().any(|format| has_format(file, format)));
    let inside = inside.unwrap_or_default();
    if files.contains(&inside) {
        return Ok(vec![inside.into()]);
    }
    for stem in [inside.to_owned(), format!("data/{inside}")] {
        let (dot, dash, slash) = (format!("{stem}."), format!("{stem}-"), format!("{stem}/"));
        for begin in [dot, dash, slash] {
            let is_direct = |file: &&str| file.strip_prefix(&*begin).is_some_and(|rest| !rest.contains('/'));
            for format in FORMATS {
                let found = files.iter().filter(|file| is_direct(file) && has_format(file, format));
                let found: Vec<String> = found.map(|file| (*file).into()).collect();
                if !found.is_empty() {
                    return whole(found);
                }
            }
        }
    }
    let there: Vec<&str> = readable().copied().collect();
    Err(if there.is_empty() {
        let read = FORMATS.join(", ");
        format!(
            "has no file ending in {read}; the hub may have it as Parquet: try @refs/convert/parquet:default/{inside}"
        )
    } else {
        format!("has no split, folder or file `{inside}` of {}; it has {}", FORMATS.join(", "), listed(&there))
    })
}

/// The files, unless they say themselves that there are more: `train-00000-of-00004.parquet`.
fn whole(files: Vec<String>) -> Result<Vec<String>, String> {
    let total = files[0].split_once("-of-").and_then(|(_, rest)| rest.get(..5)?.parse::<usize>().ok());
    match total.filter(|total| *total > files.len()) {
        None => Ok(files),
        Some(total) => Err(format!("has {} of the {total} files that `{}` is one of", files.len(), files[0])),
    }
}

fn has_format(file: &str, format: &str) -> bool {
    file.to_ascii_lowercase().ends_with(format)
}

/// The folder that a file is in, empty for the root, and its name there.
fn below(file: &str) -> (&str, &str) {
    file.rsplit_once('/').unwrap_or(("", file))
}

fn join(inside: Option<&str>, name: &str) -> String {
    inside.map_or_else(|| name.into(), |inside| format!("{inside}/{name}"))
}

/// The folders, but for the root, that have a file of such a name.
fn folders<'a>(files: &[&'a str], is_such: impl Fn(&str) -> bool) -> Vec<&'a str> {
    let mut folders: Vec<&str> =
        files.iter().map(|file| below(file)).filter(|(_, name)| is_such(name)).map(|(f, _)| f).collect();
    folders.retain(|folder| !folder.is_empty());
    folders.dedup();
    folders
}

fn listed(names: &[&str]) -> String {
    let shown: Vec<_> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    let more = names.len().saturating_sub(SHOWN);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::Kind;

    fn chosen(kind: Kind, files: &[&str], inside: Option<&str>) -> Vec<String> {
        kind.choose(files, inside).unwrap()
    }

    #[test]
    fn weights_are_chosen_as_transformers_does() {
        let all = [
            "config.json",
            "flax_model.msgpack",
            "model-00001-of-00002.safetensors",
            "model.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "tokenizer.json",
            "vocab.json",
        ];
        assert_eq!(chosen(Kind::Model, &all, None), ["config.json", "model.safetensors", "tokenizer.json"]);
        let sharded = all.map(|file| if file == "model.safetensors" { "old.safetensors" } else { file });
        assert_eq!(chosen(Kind::Model, &sharded, None)[1], "model.safetensors.index.json");
        assert_eq!(chosen(Kind::Model, &["config.json", "pytorch_model.bin"], None)[1], "pytorch_model.bin");
        assert_eq!(chosen(Kind::Model, &["a/config.json", "a/model.safetensors"], Some("a"))[0], "a/config.json");
        let problem = Kind::Model.choose(&["a/config.json", "a/model.safetensors"], None).unwrap_err();
        assert!(problem.contains("there is one in `a`"), "{problem}");
        assert!(Kind::Model.choose(&["config.json", "tf_model.h5"], None).unwrap_err().contains("no weights"));
        let karpathy = ["stories15M.bin", "stories42M.bin", "tokenizer.bin"];
        assert_eq!(chosen(Kind::Model, &karpathy, Some("stories15M.bin")), ["stories15M.bin", "tokenizer.bin"]);
    }

    #[test]
    fn a_tokenizer_is_fetched_without_weights() {
        let files = ["a/config.json", "a/tokenizer.json", "config.json", "model.safetensors", "tokenizer.json"];
        assert_eq!(chosen(Kind::Tokenizer, &files, None), ["config.json", "tokenizer.json"]);
        assert_eq!(chosen(Kind::Tokenizer, &files, Some("a")), ["a/config.json", "a/tokenizer.json"]);
        assert_eq!(chosen(Kind::Tokenizer, &files, Some("model.safetensors")), ["config.json", "tokenizer.json"]);
        assert!(Kind::Tokenizer.choose(&files[2..4], None).unwrap_err().contains("no tokenizer.json"));
    }

    #[test]
    fn an_sae_is_a_folder_or_a_file_with_what_is_beside_it() {
        let files = [
            "README.md",
            "config.json",
            "l0/ae.pt",
            "l0/config.json",
            "l0/notes.txt",
            "l1/deep/params.npz",
            "l2/cfg.json",
            "l2/sae_weights.safetensors",
            "l2/sparsity.safetensors",
        ];
        assert_eq!(chosen(Kind::Sae, &files, Some("l2")), files[6..]);
        assert_eq!(chosen(Kind::Sae, &files, Some("l0")), files[2..4]);
        assert_eq!(chosen(Kind::Sae, &files, Some("l0/ae.pt")), files[2..4]);
        assert_eq!(chosen(Kind::Sae, &files[6..].iter().map(|file| &file[3..]).collect::<Vec<_>>(), None).len(), 3);
        let problem = Kind::Sae.choose(&files, None).unwrap_err();
        assert!(problem.ends_with("`l0`, `l1/deep`, `l2`"), "{problem}");
        let problem = Kind::Sae.choose(&files, Some("l1")).unwrap_err();
        assert!(problem.ends_with("`l1/deep`"), "{problem}");
        assert!(Kind::Sae.choose(&files, Some("l3")).unwrap_err().contains("no SAE in `l3`"));
        let scope = ["L5R/checkpoints/final.safetensors", "L5R/hyperparams.json", "L6R/checkpoints/a.pt"];
        assert_eq!(chosen(Kind::Sae, &scope, Some("L5R")), [scope[1], scope[0]]);
        let problem = Kind::Sae.choose(&scope, None).unwrap_err();
        assert!(problem.ends_with("`L5R`, `L6R/checkpoints`"), "{problem}");
    }

    #[test]
    fn a_split_is_files_of_one_format_that_begin_with_its_name() {
        let stories = [
            "README.md",
            "data/train-00000-of-00002.parquet",
            "data/train-00001-of-00002.parquet",
            "data/validation-00000-of-00001.parquet",
            "TinyStories-train.txt",
        ];
        assert_eq!(chosen(Kind::Corpus, &stories, Some("train")), stories[1..3]);
        assert_eq!(chosen(Kind::Corpus, &stories, Some("validation")), stories[3..4]);
        assert_eq!(chosen(Kind::Corpus, &stories, Some("TinyStories-train.txt")), stories[4..]);
        assert_eq!(chosen(Kind::Corpus, &stories, Some("data")), stories[1..4]);
        for (files, inside, expected) in [
            (
                &["en/test/0.jsonl", "en/test/1.jsonl", "test.md"][..],
                "en/test",
                &["en/test/0.jsonl", "en/test/1.jsonl"][..],
            ),
            (&["test.jsonl", "test.parquet", "test.txt"], "test", &["test.parquet"]),
            (&["test-1.txt", "test.TXT"], "test", &["test.TXT"]),
            (&["wiki/data/test-0.txt", "wiki/test-0.txt"], "wiki/test", &["wiki/test-0.txt"]),
        ] {
            assert_eq!(chosen(Kind::Corpus, files, Some(inside)), expected);
        }
        let problem = Kind::Corpus.choose(&stories[..2], Some("train")).unwrap_err();
        assert!(problem.contains("has 1 of the 2 files"), "{problem}");
        let problem = Kind::Corpus.choose(&stories, Some("test")).unwrap_err();
        assert!(
            problem.contains("no split, folder or file `test`") && problem.contains("validation-00000"),
            "{problem}"
        );
        let problem = Kind::Corpus.choose(&["a.py", "train.csv"], Some("train")).unwrap_err();
        assert!(problem.contains("@refs/convert/parquet:default/train"), "{problem}");
    }
}
