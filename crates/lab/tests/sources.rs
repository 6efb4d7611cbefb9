//! Models, SAEs and corpora from the hub, of which a stand-in is on this machine.

mod hub;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use directrix_corpus::{Corpus, Event, Watch};
use directrix_lab::{Error, HubError, Sources, Wanted};
use hub::place::{IDS, MODEL, Place, paths, refused};
use hub::{Gate, How, Request, TOKEN, files_of, hash};
use serde_json::json;

fn wanted() -> Wanted {
    let names = |name: &str| name.to_owned();
    Wanted {
        model: names("owner/model"),
        saes: vec![names("owner/saes:l0/mlp")],
        corpus: names("owner/data:validation"),
        ..Wanted::default()
    }
}

#[test]
fn what_is_needed_is_downloaded_once_and_named_with_its_commit() {
    let place = Place::new();
    let told: Arc<Mutex<Vec<Event>>> = Arc::default();
    let events = told.clone();
    let watch = Watch::new(Arc::default(), move |event| events.lock().unwrap().push(event.clone()));
    let opened = wanted().open_from(&Sources { watch, ..place.sources() }).unwrap();

    let [model, saes, data] = &place.commits;
    assert_eq!(opened.wanted.model, format!("owner/model@{model}"));
    assert_eq!(opened.wanted.saes, [format!("owner/saes@{saes}:l0/mlp")]);
    assert_eq!(opened.wanted.corpus, format!("owner/data@{data}:validation"));
    assert_eq!((opened.saes[0].short_name(), opened.corpus.name()), ("mlp", opened.wanted.corpus.as_str()));
    assert_eq!(opened.model_source().name, opened.wanted.model);
    let local =
        Wanted { model: MODEL.into(), saes: vec![format!("{MODEL}/sae-l0")], ..Wanted::default() }.open().unwrap();
    assert_eq!(opened.model_source().hash, local.model_source().hash);
    assert_eq!(opened.sae_source(0).hash, local.sae_source(0).hash);
    assert_eq!(opened.prompts().unwrap().prompts.len(), 2);
    let ids = Corpus::in_memory("a.jsonl", IDS.as_bytes(), None).unwrap();
    assert_eq!(opened.survey(&Watch::nobody()).unwrap().hash, ids.hash().unwrap());

    let requests = place.stand_in.requests();
    let asked = |part: &str| paths(&requests).iter().filter(|path| path.contains(part)).count();
    assert_eq!((asked("/api/"), asked("/resolve/"), asked("files:/")), (3, 5, 2), "{requests:#?}");
    for other in ["README", "pytorch_model", "old/", "l2/", "train"] {
        assert_eq!(asked(other), 0, "{other}");
    }

    let told = told.lock().unwrap();
    let of_model: Vec<_> = told.iter().filter(|event| event.step == "downloading owner/model").collect();
    let size = (fs::metadata(format!("{MODEL}/model.safetensors")).unwrap().len()
        + fs::metadata(format!("{MODEL}/config.json")).unwrap().len())
        / 1000;
    assert!(of_model.iter().all(|event| event.total == Some(size) && event.unit == "kB"));
    assert!(of_model.is_sorted_by_key(|event| event.done) && of_model.last().unwrap().done == size, "{of_model:?}");

    for sources in [place.sources(), place.offline()] {
        let again = wanted().open_from(&sources).unwrap();
        assert_eq!(again.wanted, opened.wanted);
        // What results are named by opens what they were made of.
        assert_eq!(again.wanted.clone().open_from(&sources).unwrap().wanted, opened.wanted);
        assert_eq!(place.stand_in.requests(), []);
    }
}

#[test]
fn the_cache_is_laid_out_as_huggingface_hub_does() {
    let place = Place::new();
    place.sources().model("owner/model").unwrap();
    let commit = &place.commits[0];
    let (root, weights) =
        (place.cache().join("models--owner--model"), fs::read(format!("{MODEL}/model.safetensors")).unwrap());
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), *commit);
    let link = root.join("snapshots").join(commit).join("model.safetensors");
    assert_eq!(fs::read_link(&link).unwrap(), Path::new(&format!("../../blobs/{}", hash(&weights))));
    assert_eq!(fs::read(&link).unwrap(), weights);
    let tree: serde_json::Value =
        serde_json::from_slice(&fs::read(root.join(format!("trees/{commit}.json"))).unwrap()).unwrap();
    assert_eq!(tree["format_version"], 1);
    let listed = &tree["files"]["model.safetensors"];
    assert_eq!((&listed["size"], &listed["lfs_sha256"]), (&json!(weights.len()), &json!(hash(&weights))));
    assert_eq!(place.found("incomplete"), [""; 0]);

    place.sources().sae_folder("owner/saes:l0/mlp").unwrap();
    let link = place.cache().join("models--owner--saes/snapshots").join(&place.commits[1]).join("l0/mlp/cfg.json");
    assert!(fs::read_link(&link).unwrap().starts_with("../../../../blobs") && link.is_file());
}

#[test]
fn a_connection_that_is_lost_is_taken_up_again() {
    let place = Place::new();
    place.stand_in.fail("files:/", 2, How::Drop(70_000));
    place.sources().model("owner/model").unwrap();
    let ranges: Vec<_> = place.stand_in.requests().into_iter().filter_map(|request| request.range).collect();
    // Asked of the hub, which sends on, and of the host that has the bytes.
    assert_eq!(ranges, ["bytes=70000-", "bytes=70000-", "bytes=140000-", "bytes=140000-"]);
}

#[test]
fn a_download_that_was_stopped_goes_on_where_it_was() {
    let place = Place::new();
    place.stand_in.fail("files:/", 1, How::Slow(Duration::from_millis(2)));
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = stop.clone();
    let watch = Watch::new(stop, move |event| stopping.store(event.done > 40, Ordering::Relaxed));
    let error = Sources { watch, ..place.sources() }.model("owner/model").unwrap_err();
    assert!(matches!(error, Error::Hub(HubError::Stopped)), "{error}");
    let partial = place.found("incomplete");
    let got = fs::metadata(place.cache().join(&partial[0])).unwrap().len();
    assert!(partial.len() == 1 && (40_000..170_000).contains(&got), "{got}");

    assert!(
        refused(place.offline().model("owner/model"))
            .contains("`model.safetensors` of `owner/model` is not in the cache")
    );
    place.stand_in.requests();
    place.sources().model("owner/model").unwrap();
    let requests = place.stand_in.requests();
    assert!(requests.iter().all(|request| request.range == Some(format!("bytes={got}-"))), "{requests:?}");
    assert_eq!(requests.len(), 2);
    assert_eq!(place.found("incomplete"), [""; 0]);
}

#[test]
fn a_server_that_cannot_go_on_in_the_middle_begins_again() {
    let place = Place::new();
    place.stand_in.fail("files:/", 1, How::Drop(70_000));
    place.stand_in.fail("files:/", 9, How::Whole);
    let whole = fs::read(format!("{MODEL}/model.safetensors")).unwrap();
    let model = place.sources().model("owner/model").unwrap();
    assert_eq!(*model.read("model.safetensors").unwrap(), whole);

    let place = Place::new();
    let blobs = place.cache().join("models--owner--model/blobs");
    fs::create_dir_all(&blobs).unwrap();
    let partial = blobs.join(format!("{}.incomplete", hash(&whole)));
    // The beginning of something else is found out, and not kept.
    fs::write(&partial, vec![7; 5000]).unwrap();
    let message = place.refusal("owner/model");
    assert!(message.contains("`model.safetensors` is not what the hub promised: its SHA-256 is"), "{message}");
    assert!(!partial.exists());
    place.sources().model("owner/model").unwrap();

    // Longer than it can be: begun anew.
    let place = Place::new();
    fs::create_dir_all(place.cache().join("models--owner--model/blobs")).unwrap();
    fs::write(place.cache().join("models--owner--model/blobs").join(partial.file_name().unwrap()), vec![7; 500_000])
        .unwrap();
    place.sources().model("owner/model").unwrap();
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let place = Place::new();
    place.stand_in.add_gated(
        "models",
        "owner/private",
        Gate::Private,
        files_of(MODEL, &["config.json", "model.safetensors"]),
    );
    place.with_token(TOKEN).model("owner/private").unwrap();
    let requests = place.stand_in.requests();
    assert_eq!(requests.len(), 4);
    for Request { path, token, .. } in requests {
        let expected = if path.starts_with("files:") { None } else { Some(format!("Bearer {TOKEN}")) };
        assert_eq!(token, expected, "{path}");
    }
}

#[test]
fn what_the_hub_says_is_told_with_what_to_do() {
    let place = Place::new();
    let files = || files_of(MODEL, &["config.json", "model.safetensors"]);
    place.stand_in.add_gated("models", "owner/private", Gate::Private, files());
    place.stand_in.add_gated("models", "owner/gated", Gate::Gated, files());
    for (name, parts) in [
        ("owner/none", &["nothing on disk is called `owner/none`", "no such repository", "set HF_TOKEN"][..]),
        ("owner/private", &["no such repository", "Invalid username or password", "set HF_TOKEN"]),
        (
            "owner/gated",
            &[
                "`owner/gated` is gated",
                "Access to model owner/gated is restricted",
                "accept its licence at",
                "HF_TOKEN",
            ],
        ),
        ("owner/model@v9", &["no revision `v9`", "Invalid rev id: v9", "branch"]),
        ("owner/model:old", &["holds no config.json in `old`"]),
        ("owner/saes", &["holds no config.json"]),
    ] {
        let message = place.refusal(name);
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
    let wrong = place.with_token("hf_wrong");
    for (name, parts) in
        [("owner/none", "that the token in HF_TOKEN may read it"), ("owner/private", "its token is not accepted")]
    {
        let message = refused(wrong.model(name));
        assert!(message.contains(parts), "{message}");
    }
    let message = refused(place.with_token("a\nb").model("owner/model"));
    assert!(message.contains("HF_TOKEN cannot be used"), "{message}");
    let message = refused(place.sources().sae_folder("owner/saes"));
    assert!(message.contains("name one of its folders behind a colon: `l0/mlp`, `l2/mlp`"), "{message}");
    let message = place.sources().corpus("owner/data:test", None).unwrap_err().to_string();
    assert!(message.contains("no split, folder or file `test`") && message.contains("validation-00000"), "{message}");
    assert_eq!(place.found("snapshots"), [""; 0]);

    let place = Place::new();
    for (how, parts) in [
        (How::Status(429, &[("Retry-After", "17")]), &["429", "try again in 17 seconds", "HF_TOKEN"][..]),
        (How::Status(429, &[("Retry-After", "Wed, 21 Oct 2026 07:28:00 GMT")]), &["in some minutes"]),
        (How::Status(503, &[]), &["503", "try again later"]),
        (How::Status(500, &[("X-Error-Message", "Internal oops")]), &["500: Internal oops"]),
        (
            How::Status(403, &[("X-Error-Message", "Not yours")]),
            &["403: Not yours", "set HF_TOKEN to a token that may read it"],
        ),
        (How::Status(404, &[("X-Error-Code", "EntryNotFound")]), &["404", "owner/model"]),
        (How::Status(418, &[]), &["418"]),
        (How::Status(302, &[]), &["sends us on to an address that cannot be used"]),
        (How::Status(302, &[("Location", "ftp://elsewhere/x")]), &["sends us on to an address that cannot be used"]),
        (How::Status(302, &[("Location", "/api/models/owner/model/revision/main")]), &["without end"]),
        (How::Body(b"<html>".to_vec()), &["no JSON", "HF_ENDPOINT"]),
        (How::Body(b"{}".to_vec()), &["no commit"]),
        (How::Body(br#"{"sha": "../../../../x", "siblings": []}"#.to_vec()), &["no commit"]),
        (How::Body(format!(r#"{{"sha": "{}"}}"#, "0".repeat(40)).into_bytes()), &["no files under `siblings`"]),
        (How::Drop(10), &["cannot reach 127.0.0.1"]),
    ] {
        place.stand_in.fail("/api/", 99, how.clone());
        let message = place.refusal("owner/model");
        assert!(parts.iter().all(|part| message.contains(part)), "{how:?}: {message}");
        place.stand_in.mend();
    }
    assert_eq!(place.found("snapshots"), [""; 0]);
}

#[test]
fn no_hub_is_an_error_that_says_so() {
    let place = Place::new();
    let mut sources = place.sources();
    sources.hub.endpoint = "http://127.0.0.1:1".into();
    let message = refused(sources.model("owner/model"));
    assert!(
        message.contains("cannot reach 127.0.0.1:1 for `owner/model`") && message.contains("HF_HUB_OFFLINE=1"),
        "{message}"
    );
    for endpoint in ["", "huggingface.co", "ftp://huggingface.co", "http://", "a b"] {
        sources.hub.endpoint = endpoint.into();
        let message = refused(sources.model("owner/model"));
        assert!(message.contains("HF_ENDPOINT"), "{message}");
    }
}

#[test]
fn lies_about_files_are_found_out() {
    let size = fs::metadata(format!("{MODEL}/model.safetensors")).unwrap().len() as usize;
    for (at, how, part) in [
        ("files:/", How::Body(vec![0; size]), "its SHA-256 is"),
        ("files:/", How::Body(vec![0; 100]), "announces `model.safetensors` with 181008 bytes and with 100"),
        ("files:/", How::Body(vec![0; size + 1]), "with 181008 bytes and with 181009"),
        ("files:/", How::Header("Content-Length", "99999999999999999999".into()), "not a number"),
        ("files:/", How::Header("Content-Length", "18446744073709551615".into()), "and with 18446744073709551615"),
        ("files:/", How::Header("Content-Encoding", "gzip".into()), "coded as `gzip`"),
        ("files:/", How::Status(404, &[]), "404"),
        ("files:/", How::Status(429, &[("Retry-After", "3")]), "in 3 seconds"),
        ("files:/", How::Drop(0), "ended after 0 of 181008 bytes"),
        ("model.safetensors", How::Header("X-Linked-Size", "7".into()), "with 181008 bytes and with 7"),
        ("model.safetensors", How::Status(404, &[("X-Error-Code", "EntryNotFound")]), "no file `model.safetensors`"),
        ("config.json", How::Body(b"{}".to_vec()), "announces `config.json`"),
    ] {
        let place = Place::new();
        place.stand_in.fail(at, 99, how.clone());
        let message = place.refusal("owner/model");
        assert!(message.contains(part), "{how:?}: {message}");
        assert_eq!(place.found("model.safetensors"), [""; 0], "{how:?}");
        // Nothing of it stands in the way afterwards.
        place.stand_in.mend();
        place.sources().model("owner/model").unwrap();
    }
}

#[test]
fn hostile_names_are_refused_before_anything_is_written() {
    for sibling in [
        json!({"rfilename": "../../../evil.json", "size": 1}),
        json!({"rfilename": "/etc/evil"}),
        json!({"rfilename": "a\\..\\evil"}),
        json!({"rfilename": "a//b"}),
        json!({"rfilename": "\u{1b}[2Jevil"}),
        json!({"rfilename": 7}),
        json!(null),
    ] {
        let place = Place::new();
        place.stand_in.list("owner/model", sibling.clone());
        let message = place.refusal("owner/model");
        assert!(
            message.contains("no name for a file") || message.contains("without `rfilename`"),
            "{sibling}: {message}"
        );
        assert!(!message.contains('\u{1b}'));
        assert_eq!(place.found(""), [""; 0]);
    }
    // An ETag that is a path is not taken for a name.
    let place = Place::new();
    place.stand_in.list("owner/model", json!({"rfilename": "tokenizer.json", "size": 4, "blobId": "../../evil"}));
    place.stand_in.fail("tokenizer.json", 9, How::Status(200, &[("ETag", "\"../../evil\"")]));
    let message = place.refusal("owner/model");
    assert!(message.contains("no ETag that can be used"), "{message}");
    assert_eq!(place.found("evil"), [""; 0]);
}

#[test]
fn saes_of_the_hub_whose_folders_are_called_alike_are_told_apart() {
    let place = Place::new();
    let saes = vec!["owner/saes:l0/mlp".to_owned(), "owner/saes:l2/mlp".to_owned()];
    let opened = Wanted { saes, ..wanted() }.open_from(&place.sources()).unwrap();
    assert_eq!([0, 1].map(|i| opened.saes[i].short_name()), ["l0-mlp", "l2-mlp"]);
    assert_eq!(opened.wanted.saes[1], format!("owner/saes@{}:l2/mlp", place.commits[1]));
    assert_eq!(opened.model_name(), "owner/model");
}

#[test]
fn weights_in_several_files_are_those_of_the_index() {
    let place = Place::new();
    let index = r#"{"weight_map": {"a": "w-2.safetensors", "b": "w-1.safetensors"}}"#;
    let files = [
        ("config.json", "{}"),
        ("model.safetensors.index.json", index),
        ("w-1.safetensors", "1"),
        ("w-2.safetensors", "2"),
        ("w-3.safetensors", "3"),
    ];
    place.stand_in.add("models", "owner/sharded", files);
    let names = place.sources().model("owner/sharded").unwrap().names().unwrap();
    assert_eq!(names, ["config.json", "model.safetensors.index.json", "w-1.safetensors", "w-2.safetensors"]);
    place.stand_in.requests();
    place.sources().model("owner/sharded").unwrap();
    assert_eq!(place.stand_in.requests(), []);

    let hostile = r#"{"weight_map": {"a": "../../../evil"}}"#;
    place.stand_in.add("models", "owner/hostile", [("config.json", "{}"), ("model.safetensors.index.json", hostile)]);
    let message = place.refusal("owner/hostile");
    assert!(message.contains("names a file that cannot be one"), "{message}");
    let absent = r#"{"weight_map": {"a": "absent.safetensors"}}"#;
    place.stand_in.add("models", "owner/absent", [("config.json", "{}"), ("model.safetensors.index.json", absent)]);
    let message = place.refusal("owner/absent");
    assert!(message.contains("has no file `absent.safetensors`"), "{message}");
}

#[test]
fn a_revision_is_a_branch_a_tag_or_a_commit() {
    let place = Place::new();
    let commit = &place.commits[0];
    for revision in ["refs/pr/1", "main", commit] {
        let model = place.sources().model(&format!("owner/model@{revision}")).unwrap();
        assert_eq!(model.to_string(), format!("owner/model@{commit}"));
    }
    let requests = place.stand_in.requests();
    // The branches by name, the commit not at all, and the files once.
    assert_eq!(paths(&requests)[0], "/api/models/owner/model/revision/refs%2Fpr%2F1?blobs=true");
    assert_eq!(requests.len(), 5, "{requests:#?}");
    assert_eq!(fs::read_to_string(place.cache().join("models--owner--model/refs/refs/pr/1")).unwrap(), *commit);
}

#[test]
fn what_python_left_in_the_cache_is_used_as_it_is() {
    let place = Place::new();
    wanted().open_from(&place.sources()).unwrap();
    for repository in ["models--owner--model", "models--owner--saes", "datasets--owner--data"] {
        fs::remove_dir_all(place.cache().join(repository).join("trees")).unwrap();
    }
    place.stand_in.requests();
    wanted().open_from(&place.offline()).unwrap();
    assert_eq!(place.stand_in.requests(), []);
    // Whether the repository has a tokenizer is not known, until huggingface_hub has noted that it has none.
    let absent = place.cache().join("models--owner--model/.no_exist").join(&place.commits[0]);
    fs::create_dir_all(&absent).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::write(absent.join(file), "").unwrap();
    }
    place.sources().model("owner/model").unwrap();
    assert_eq!(place.stand_in.requests(), []);
    place.sources().sae_folder("owner/saes:l0/mlp").unwrap();
    assert_eq!(paths(&place.stand_in.requests()), ["/api/models/owner/saes/revision/main?blobs=true"]);
}

#[test]
fn offline_says_what_is_missing_and_asks_nobody() {
    let place = Place::new();
    let message = refused(place.offline().model("owner/model"));
    for part in ["owner/model", "HF_HUB_OFFLINE", "models--owner--model", place.cache().to_str().unwrap()] {
        assert!(message.contains(part), "{message}");
    }
    place.sources().corpus("owner/data:validation", None).unwrap();
    place.stand_in.requests();
    let message = place.offline().corpus("owner/data:train", None).unwrap_err().to_string();
    assert!(message.contains("`data/train-00000-of-00002.jsonl` and 1 more of `owner/data:train`"), "{message}");
    let message = place.offline().corpus("owner/data:test", None).unwrap_err().to_string();
    assert!(message.contains("no split"), "{message}");
    assert_eq!(place.stand_in.requests(), []);
}

#[test]
fn what_lies_on_disk_is_not_asked_for() {
    let place = Place::new();
    let sources = place.sources();
    sources.model(MODEL).unwrap();
    sources.model("tinystories-2l").unwrap();
    sources.sae_folder("tinystories-2l/sae-l1").unwrap();
    for name in ["no/such/folder", "./owner/model", "embedded:no-such", "no-such"] {
        assert!(matches!(sources.model(name), Err(Error::Unknown { .. })), "{name}");
    }
    for name in ["owner/data", "no/such.txt", "/no/such.txt"] {
        assert!(matches!(sources.corpus(name, None), Err(Error::Unknown { .. })), "{name}");
    }
    assert_eq!(place.stand_in.requests(), []);
}
