//! A file cut short while it is read is an error that names it, never a signal's death.
#![cfg(unix)]

mod common;

use std::fs::{self, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use common::{Folder, Served, directrix, done, text};

/// All files of a folder and those below.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let (mut folders, mut files) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files
}

#[test]
fn a_file_cut_short_while_it_is_read_is_an_error() {
    let folder = Folder::new();
    let index = folder.path().join("index");
    done(&["index", "--limit", "300", "--out", index.to_str().unwrap()]);
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(format!("../../assets/tinystories-2l/{file}"), model.join(file)).unwrap();
    }
    let mut files = files_in(&index);
    files.push(model.join("model.safetensors"));
    files.retain(|file| fs::metadata(file).unwrap().len() > 1 << 16);
    files.sort();
    assert!(files.len() > 5, "{files:?}");
    let whole: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    let readers = |delay: u64| {
        let ask = |args: &[&str]| directrix().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let readers = [
            ask(&["search", "--query", "sae-l0/429 | \"e\"", "--index", index.to_str().unwrap(), "--json"]),
            ask(&["direction", "3,77,429", "--index", index.to_str().unwrap(), "--json"]),
            ask(&["generate", "--model", model.to_str().unwrap(), "--prompt", "Once", "--tokens", "5"]),
        ];
        thread::sleep(Duration::from_millis(delay));
        for (file, bytes) in files.iter().zip(&whole) {
            OpenOptions::new().write(true).open(file).unwrap().set_len(bytes.len() as u64 / 3).unwrap();
        }
        let ended = readers.map(|reader| reader.wait_with_output().unwrap());
        for (file, bytes) in files.iter().zip(&whole) {
            fs::write(file, bytes).unwrap();
        }
        ended
    };
    let (mut said, mut unharmed) = (0, 0);
    for round in 0..32 {
        for ended in readers(round * 2) {
            let error = text(&ended.stderr);
            assert_eq!(ended.status.signal(), None, "{error}");
            if ended.status.success() {
                unharmed += 1;
            } else {
                assert_eq!(ended.status.code(), Some(1), "{error}");
                assert!(
                    files.iter().any(|file| error.contains(file.file_name().unwrap().to_str().unwrap())),
                    "{error}"
                );
                said += 1;
            }
        }
    }
    assert!(said > 0, "{unharmed} readers were done before a file was cut");
}

#[test]
fn a_server_whose_index_is_cut_short_says_so_and_goes_on() {
    let folder = Folder::new();
    let index = folder.path().join("index");
    done(&["index", "--limit", "300", "--out", index.to_str().unwrap()]);
    let server = Served::start(&["--index", index.to_str().unwrap()]);
    assert!(server.get("/api/saes/1/directions/5").starts_with("HTTP/1.1 200"));
    for file in files_in(&index) {
        OpenOptions::new().write(true).open(file).unwrap().set_len(0).unwrap();
    }
    let said = server.get("/api/search/directions?find=said&kind=text");
    assert!(said.starts_with("HTTP/1.1 503") && said.contains("became shorter while it was served"), "{said}");
    assert!(server.get("/api/info").starts_with("HTTP/1.1 200"));
}
