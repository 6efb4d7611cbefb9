//! What is left of an index that ranks began, and who goes on with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use directrix_corpus::{Ranks, Team, Threads, Watch};
use directrix_index::Options;
use directrix_lab::{Opened, OtherIndex, Wanted};

/// The shipped model and its first SAE on so many of the shipped stories: on 600, three pieces.
fn opened(limit: usize) -> Opened {
    Wanted { saes: vec!["tinystories-2l/sae-l0".into()], limit: Some(limit), ..Wanted::default() }.open().unwrap()
}

fn pieces(folder: &Path) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(".pieces");
    name.into()
}

/// All files below a folder, by name.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = PathBuf::from(path.file_name().unwrap());
        if path.is_dir() {
            all.extend(files(&path).into_iter().map(|(inside, bytes)| (name.join(inside), bytes)));
        } else {
            all.push((name, fs::read(path).unwrap()));
        }
    }
    all.sort();
    all
}

fn index(opened: &Opened, folder: &Path, other: OtherIndex, watch: &Watch) -> Result<(), String> {
    opened.index(folder, Options::default(), other, watch).map(drop).map_err(|error| error.to_string())
}

/// The same by ranks, of which there is one, until the first piece is done.
fn begun(opened: &Opened, folder: &Path, other: OtherIndex) {
    let stop = Arc::new(AtomicBool::new(false));
    let after_one = {
        let stop = stop.clone();
        Watch::new(stop.clone(), move |event| {
            stop.store(event.unit == "units" && event.done > 0, Ordering::Relaxed);
        })
    };
    let [ranks] = <[Threads; 1]>::try_from(Threads::new(1)).ok().unwrap();
    let ranks: Arc<dyn Ranks> = Arc::new(ranks);
    let watch = after_one.with_team(Arc::new(Team::of_ranks(ranks, None).unwrap()));
    index(opened, folder, other, &watch).unwrap_err();
    assert!(pieces(folder).join("0-0/index.json").is_file() && !pieces(folder).join("0-2").exists());
}

#[test]
fn one_process_goes_on_with_what_ranks_left() {
    let disk = tempfile::tempdir().unwrap();
    let (alone, out) = (disk.path().join("alone"), disk.path().join("out"));
    let opened = opened(600);
    index(&opened, &alone, OtherIndex::Keep, &Watch::nobody()).unwrap();
    begun(&opened, &out, OtherIndex::Keep);
    let first = fs::metadata(pieces(&out).join("0-0/index.json")).unwrap().modified().unwrap();

    let [out_, pieces_] = [out.clone(), pieces(&out)];
    let kept = Watch::new(Arc::default(), move |_| {
        let there = fs::metadata(pieces_.join("0-0/index.json")).is_ok_and(|file| file.modified().unwrap() == first);
        assert!(there || out_.exists(), "the piece that was done is made again");
    });
    index(&opened, &out, OtherIndex::Keep, &kept).unwrap();
    assert!(files(&out) == files(&alone));
    assert!(!pieces(&out).exists());
}

#[test]
fn pieces_that_are_beside_a_complete_index_are_removed() {
    let disk = tempfile::tempdir().unwrap();
    let (out, other) = (disk.path().join("out"), disk.path().join("other"));
    let opened = opened(600);
    begun(&opened, &other, OtherIndex::Keep);
    index(&opened, &out, OtherIndex::Keep, &Watch::nobody()).unwrap();
    fs::rename(pieces(&other), pieces(&out)).unwrap();
    let before = files(&out);
    index(&opened, &out, OtherIndex::Keep, &Watch::nobody()).unwrap();
    assert!(files(&out) == before);
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 1);
}

#[test]
fn pieces_of_another_index_are_named_or_give_way_and_a_folder_that_was_killed_empty_is_none() {
    let disk = tempfile::tempdir().unwrap();
    let (alone, out) = (disk.path().join("alone"), disk.path().join("out"));
    begun(&opened(600), &out, OtherIndex::Keep);
    let before = files(&pieces(&out));
    let opened = opened(590);
    let said = index(&opened, &out, OtherIndex::Keep, &Watch::nobody()).unwrap_err();
    assert!(said.contains("out.pieces holds an index of other inputs"), "{said}");
    assert!(files(&pieces(&out)) == before);
    fs::remove_dir_all(pieces(&out)).unwrap();
    fs::create_dir(pieces(&out)).unwrap();
    fs::write(pieces(&out).join(".of.json.7-0.partial"), "{").unwrap();
    begun(&opened, &out, OtherIndex::Keep);
    let opened = self::opened(580);
    begun(&opened, &out, OtherIndex::Replace);
    index(&opened, &out, OtherIndex::Replace, &Watch::nobody()).unwrap();
    index(&opened, &alone, OtherIndex::Keep, &Watch::nobody()).unwrap();
    assert!(files(&out) == files(&alone));
    assert!(!pieces(&out).exists());
}

#[test]
fn a_folder_of_somebody_else_is_left_alone() {
    let disk = tempfile::tempdir().unwrap();
    let out = disk.path().join("out");
    let theirs = [pieces(&out), disk.path().join("out.old"), disk.path().join("out.units")];
    for folder in &theirs {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("thesis.tex"), "").unwrap();
    }
    let opened = opened(20);
    let [ranks] = <[Threads; 1]>::try_from(Threads::new(1)).ok().unwrap();
    let ranks: Arc<dyn Ranks> = Arc::new(ranks);
    let together = || Watch::nobody().with_team(Arc::new(Team::of_ranks(ranks.clone(), None).unwrap()));
    for other in [OtherIndex::Keep, OtherIndex::Replace] {
        let said = index(&opened, &out, other, &together()).unwrap_err();
        assert!(said.contains("out.pieces is not an unfinished index"), "{said}");
    }
    index(&opened, &out, OtherIndex::Keep, &Watch::nobody()).unwrap();
    index(&opened, &out, OtherIndex::Replace, &together()).unwrap();
    let refused = Team::of_ranks(ranks, Some((&theirs[2], &serde_json::json!({})))).err().unwrap().to_string();
    assert!(refused.contains("out.units") && refused.contains("run.json"), "{refused}");
    assert!(theirs.iter().all(|folder| folder.join("thesis.tex").is_file()));
}

#[test]
fn nothing_is_made_where_it_would_have_no_place() {
    let disk = tempfile::tempdir().unwrap();
    let out = disk.path().join("out");
    index(&opened(20), &out, OtherIndex::Keep, &Watch::nobody()).unwrap();
    let [ranks] = <[Threads; 1]>::try_from(Threads::new(1)).ok().unwrap();
    let watch = Watch::nobody().with_team(Arc::new(Team::of_ranks(Arc::new(ranks), None).unwrap()));
    let said = index(&opened(600), &out, OtherIndex::Keep, &watch).unwrap_err();
    assert!(said.contains("out holds an index of other inputs"), "{said}");
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 1, "no piece");
}
