//! Which files of a repository, or on disk, a model, an SAE, a tokenizer and a corpus are.

mod hub;

use std::fs;
use std::sync::Arc;

use directrix_corpus::Document;
use directrix_lab::{Error, Sources};
use directrix_model::{Folder, Model, Processing};
use directrix_sae::Sae;
use hub::files_of;
use hub::place::{Place, paths, refused};
use parquet::data_type::{ByteArrayType, Int32Type};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

#[test]
fn an_sae_is_a_file_as_well_as_its_folder_on_disk_and_on_the_hub() {
    const FORMATS: &str = "../sae/tests/fixtures/formats";
    let stored: [(&str, &str, &[&str]); 7] = [
        ("openai/resid_post_mlp", "8.pt", &[]),
        ("goodfire/Llama-3.1-8B-Instruct-SAE-l19", "Llama-3.1-8B-Instruct-SAE-l19.pth", &[]),
        ("dictionary_learning/topk", "ae.pt", &["config.json"]),
        ("superposition/mlp", "291_cool-name.pt", &["291_cool-name.json"]),
        ("gemma_scope/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71", "params.npz", &[]),
        ("sparsify/plain/layers.10", "sae.safetensors", &["cfg.json"]),
        ("openmoss/topk", "sae_weights.safetensors", &["config.json"]),
    ];
    let place = Place::new();
    let mut files: Vec<(&'static str, Vec<u8>)> = Vec::new();
    for (folder, weights, others) in stored {
        for name in others.iter().chain([&weights]) {
            let path = format!("{folder}/{name}");
            files.push((String::leak(path.clone()), fs::read(format!("{FORMATS}/{path}")).unwrap()));
        }
        // Another one in the folder, which is not meant.
        files.push((String::leak(format!("{folder}/another.pt")), b"?".to_vec()));
    }
    place.stand_in.add("models", "owner/gemma-scope-2b-pt-res", files);
    for (folder, weights, _) in stored {
        let local = place.disk.path().join("local").join(folder);
        fs::create_dir_all(&local).unwrap();
        for entry in fs::read_dir(format!("{FORMATS}/{folder}")).unwrap().map(|entry| entry.unwrap().path()) {
            fs::copy(&entry, local.join(entry.file_name().unwrap())).unwrap();
        }
        let load = |name: &str| Sae::load(&place.sources().sae_folder(name).unwrap()).unwrap();
        let expected = load(local.to_str().unwrap());
        fs::write(local.join("another.pt"), "?").unwrap();
        for name in
            [local.join(weights).display().to_string(), format!("owner/gemma-scope-2b-pt-res:{folder}/{weights}")]
        {
            let sae = load(&name);
            assert_eq!((sae.parameters(), sae.site()), (expected.parameters(), expected.site()), "{name}");
            assert!(sae.name().ends_with(&format!("{folder}/{weights}")), "{}", sae.name());
        }
    }
    assert_eq!(place.found("another"), [""; 0]);

    let alone = place.disk.path().join("ae.pt");
    fs::copy(format!("{FORMATS}/dictionary_learning/topk/ae.pt"), &alone).unwrap();
    let message = Sae::load(&place.sources().sae_folder(alone.to_str().unwrap()).unwrap()).unwrap_err().to_string();
    assert!(message.contains("is its `.json` missing?"), "{message}");
}

#[test]
fn a_checkpoint_of_llama2c_is_a_file_with_its_tokenizer_beside_it_on_disk_and_on_the_hub() {
    let header: Vec<u8> = [4_i32, 4, 1, 1, 1, 259, 8].iter().flat_map(|size| size.to_le_bytes()).collect();
    let checkpoint = [header, vec![0; 4 * 1192]].concat();
    let piece = |id: i32| {
        let text = if id < 3 { format!("{id}") } else { format!("<0x{:02X}>", id - 3) };
        [&0.0_f32.to_le_bytes()[..], &(text.len() as i32).to_le_bytes(), text.as_bytes()].concat()
    };
    let tokenizer = [7_i32.to_le_bytes().to_vec(), (0..259).flat_map(piece).collect()].concat();
    let place = Place::new();
    for (repository, name) in [("owner/tales", "tokenizer.bin"), ("owner/tiny", "small/tok259.bin")] {
        let folder = name.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        let file: &str = String::leak(format!("{folder}stories.bin"));
        place.stand_in.add("models", repository, [(file, checkpoint.clone()), (name, tokenizer.clone())]);
        let local = place.disk.path().join(repository).join(&folder);
        fs::create_dir_all(&local).unwrap();
        fs::write(local.join("stories.bin"), &checkpoint).unwrap();
        fs::write(place.disk.path().join(repository).join(name), &tokenizer).unwrap();
        for source in [local.join("stories.bin").display().to_string(), format!("{repository}:{file}")] {
            let found = place.sources().model(&source).unwrap();
            assert_eq!(Model::load(&found, Processing::default()).unwrap().config().d_vocab, 259);
            let tokenizer = place.sources().tokenizer(&source).unwrap().tokenizer().unwrap().unwrap();
            assert_eq!(tokenizer.encode("a").unwrap(), [0xE2 + 3, 0x96 + 3, 0x81 + 3, 97 + 3], "{source}");
        }
    }
    let other = place.disk.path().join("other.bin");
    fs::write(&other, "what is no checkpoint at all, and long enough").unwrap();
    let folder = place.sources().model(other.to_str().unwrap()).unwrap();
    let message = Model::load(&folder, Processing::default()).unwrap_err().to_string();
    assert!(message.contains("other.bin") && message.contains("name the folder"), "{message}");
}

#[test]
fn an_sae_of_llama_scope_is_a_folder_on_the_hub() {
    const FOLDER: &str = "../sae/tests/fixtures/formats/llama_scope/Llama3_1-8B-Base-L5R-8x";
    let place = Place::new();
    let names = ["L5R/hyperparams.json", "L5R/checkpoints/final.safetensors"];
    let files = names.map(|name| (name, fs::read(format!("{FOLDER}/{}", &name[4..])).unwrap()));
    place.stand_in.add("models", "owner/scope", files);
    let sae = Sae::load(&place.sources().sae_folder("owner/scope:L5R").unwrap()).unwrap();
    let expected = Sae::load(&Folder::open(FOLDER).unwrap()).unwrap();
    assert_eq!((sae.parameters(), sae.site()), (expected.parameters(), expected.site()));
    let message = refused(place.sources().sae_folder("owner/scope"));
    assert!(message.ends_with("name one of its folders behind a colon: `L5R`"), "{message}");
}

#[test]
fn a_tokenizer_is_fetched_without_the_model() {
    let place = Place::new();
    let files = files_of("../../assets/tinystories-2l", &["config.json", "tokenizer.json", "model.safetensors"]);
    place.stand_in.add("models", "owner/stories", files);
    let folder = place.sources().tokenizer("owner/stories").unwrap();
    assert!(folder.tokenizer().unwrap().is_some());
    let requests = place.stand_in.requests();
    assert!(paths(&requests).iter().all(|path| !path.contains("model.safetensors") && !path.starts_with("files:")));
    assert_eq!(place.found("model.safetensors"), [""; 0]);
    place.offline().tokenizer("owner/stories").unwrap();
    assert_eq!(place.stand_in.requests(), []);
    let message = refused(place.sources().tokenizer("owner/model"));
    assert!(message.contains("holds no tokenizer.json"), "{message}");
}

/// A Parquet file with a column of numbers and one of texts.
fn parquet_file(column: &str, texts: &[&str]) -> Vec<u8> {
    let schema = format!("message rows {{ required int32 number; required binary {column} (UTF8); }}");
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut numbers = group.next_column().unwrap().unwrap();
    let count: Vec<i32> = (0..).take(texts.len()).collect();
    numbers.typed::<Int32Type>().write_batch(&count, None, None).unwrap();
    numbers.close().unwrap();
    let mut output = group.next_column().unwrap().unwrap();
    let texts: Vec<_> = texts.iter().map(|text| (*text).into()).collect();
    output.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
    output.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

#[test]
fn a_split_of_parquet_files_is_read_by_its_column_of_texts() {
    let place = Place::new();
    for (name, column) in [("owner/stories", "text"), ("owner/tales", "story")] {
        let commit = place.stand_in.add(
            "datasets",
            name,
            [
                ("README.md", b"?".to_vec()),
                ("data/train-00000-of-00002.parquet", parquet_file(column, &["One.", "Two."])),
                ("data/train-00001-of-00002.parquet", parquet_file(column, &["Three."])),
                ("data/validation-00000-of-00001.parquet", parquet_file(column, &["Four."])),
                ("data/validation.jsonl", b"{\"text\": \"no\"}\n".to_vec()),
            ],
        );
        let wanted = (column != "text").then_some(column);
        let texts = |split: &str, sources: &Sources| {
            let corpus = sources.corpus(&format!("{name}:{split}"), wanted).unwrap();
            assert_eq!(corpus.name(), format!("{name}@{commit}:{split}"));
            corpus.documents().unwrap().map(Result::unwrap).collect::<Vec<_>>()
        };
        let text = |text: &str| Document::Text(text.into());
        for sources in [place.sources(), place.offline()] {
            assert_eq!(texts("train", &sources), ["One.", "Two.", "Three."].map(text));
        }
        assert_eq!(texts("data/train-00001-of-00002.parquet", &place.sources()), [text("Three.")]);
    }
    assert_eq!(place.found("README"), [""; 0]);
    let read = |name: &str, column: Option<&str>| {
        let corpus = place.sources().corpus(name, column)?;
        Ok::<_, Error>(corpus.documents()?.collect::<Result<Vec<_>, _>>()?)
    };
    let message = read("owner/tales:train", None).unwrap_err().to_string();
    assert!(message.contains("`story`") && message.contains("train-00000-of-00002.parquet"), "{message}");
    let message = read("owner/stories:train", Some("number")).unwrap_err().to_string();
    assert!(message.contains("number"), "{message}");
    // Where a split is there in two formats, the files `SPLIT.*` count before those that are numbered.
    assert_eq!(read("owner/stories:validation", None).unwrap(), [Document::Text("no".into())]);
}

#[test]
fn a_corpus_of_several_files_is_read_in_the_order_of_their_names() {
    let place = Place::new();
    let corpus = place.sources().corpus("owner/data:train", None).unwrap();
    let documents: Vec<Document> = corpus.documents().unwrap().map(Result::unwrap).collect();
    assert_eq!(documents, [vec![1, 2, 3, 4], vec![5, 6, 7], vec![8, 9]].map(Document::Tokens));
    let file = place.sources().corpus("owner/data:data/validation-00000-of-00001.jsonl", None).unwrap();
    assert_eq!(file.documents().unwrap().count(), 2);
    // The folder as a local one.
    let snapshot = place.cache().join("datasets--owner--data/snapshots").join(&place.commits[2]).join("data");
    let local = place.sources().corpus(snapshot.to_str().unwrap(), None).unwrap();
    assert_eq!(local.documents().unwrap().count(), 5);
}
