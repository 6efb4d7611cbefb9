//! What a plan says beside what an index then is.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use directrix_corpus::{Watch, peak_memory};
use directrix_index::{Merged, Options, Size, merge};
use directrix_lab::{Opened, OtherIndex, Plan, Sizing, Wanted};

/// Memory is the process's and time the machine's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// The shipped model and SAEs on so many of the shipped stories.
fn opened(limit: Option<usize>) -> Opened {
    let saes = ["tinystories-2l/sae-l0", "tinystories-2l/sae-l1"].map(String::from).to_vec();
    Wanted { saes, limit, ..Wanted::default() }.open().unwrap()
}

fn plan(opened: &Opened, documents: usize, seconds: f64, ranks: &[usize]) -> Plan {
    let disk = tempfile::tempdir().unwrap();
    let scratch = disk.path().to_path_buf();
    let sizing = Sizing { positions: None, ranks: ranks.to_vec(), documents, seconds, scratch };
    let plan = opened.plan(&sizing, &Watch::nobody()).unwrap();
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 0, "nothing is left");
    plan
}

/// Makes the index, and gives its size, the bytes of its files, and the seconds it took.
fn made(opened: &Opened, folder: &Path) -> (Size, u64, f64) {
    let started = Instant::now();
    let index = opened.index(folder, Options::default(), OtherIndex::Keep, &Watch::nobody()).unwrap();
    let seconds = started.elapsed().as_secs_f64();
    let (count, bytes) = files(folder);
    assert_eq!(count, index.size().files());
    (index.size(), bytes, seconds)
}

fn files(folder: &Path) -> (u64, u64) {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).fold((0, 0), |(count, bytes), path| {
        let (own, of) = if path.is_dir() { files(&path) } else { (1, fs::metadata(&path).unwrap().len()) };
        (count + own, bytes + of)
    })
}

/// Forgets what this process had at most; false where the system does not.
fn forget_peak() -> bool {
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

fn within(share: f64, planned: f64, found: f64, what: &str) {
    eprintln!("{what}: {planned:.0} planned, {found:.0} found, {:.3}", planned / found);
    assert!((planned / found - 1.0).abs() < share, "{what}: {planned} planned, {found} found");
}

#[test]
fn a_plan_of_some_prompts_says_what_the_whole_index_is() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let opened = opened(None);
    let plan = plan(&opened, 128, 1e9, &[1, 2, 64]);
    let forgotten = forget_peak();
    let disk = tempfile::tempdir().unwrap();
    let (size, bytes, _) = made(&opened, &disk.path().join("index"));
    let contents = fs::metadata(disk.path().join("index/index.json")).unwrap().len();
    assert_eq!(size.bytes() + contents, bytes, "files are plain arrays");
    within(0.05, plan.positions as f64, size.positions as f64, "positions");
    within(0.05, plan.index_bytes as f64, bytes as f64, "bytes");
    for (number, (planned, found)) in plan.saes.iter().zip(&size.saes).enumerate() {
        within(0.05, planned.active, found.entries as f64 / size.positions as f64, &planned.name);
        within(0.05, planned.bytes as f64, size.sae_bytes(number) as f64, &planned.name);
    }
    if let (true, Some(planned), Some(found)) = (forgotten, plan.memory_bytes, peak_memory()) {
        within(0.25, planned as f64, found as f64, "memory");
    }

    let [one, two, many] = &plan.ranks[..] else { panic!("{:?}", plan.ranks) };
    assert_eq!((one.pieces, one.seconds, one.disk_bytes), (0, plan.seconds, plan.disk_bytes));
    assert!(two.pieces > 1 && two.pieces == many.pieces && two.merges == many.merges);
    assert!(two.pieces_seconds > many.pieces_seconds && two.busiest_bytes > many.busiest_bytes);
    assert!(two.written_bytes > plan.disk_bytes && two.disk_bytes > plan.disk_bytes);
}

#[test]
fn a_longer_corpus_is_planned_by_its_positions_and_the_smallest_by_what_it_is() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let opened = opened(Some(1));
    let disk = tempfile::tempdir().unwrap();
    let sizing = |positions| Sizing {
        positions,
        ranks: vec![1, 1_000_000],
        documents: 9,
        seconds: 0.0,
        scratch: disk.path().to_path_buf(),
    };
    let plan = |positions| opened.plan(&sizing(positions), &Watch::nobody()).unwrap();
    let one = plan(None);
    assert_eq!((one.documents, one.prompts), (1, 1));
    for positions in [1, 1_000_000_000, 1_000_000_000_000_000] {
        let plan = plan(Some(positions));
        assert_eq!(plan.positions, positions);
        let times = plan.ranks.iter().map(|over| over.seconds).chain([plan.seconds, plan.flop]);
        assert!(times.into_iter().all(|number| number.is_finite() && number > 0.0), "{plan:?}");
    }
    let missing = Sizing { scratch: disk.path().join("none"), ..sizing(None) };
    assert!(opened.plan(&missing, &Watch::nobody()).unwrap_err().to_string().contains("none"));
}

/// `cargo test --release -p directrix-lab --test plan -- --ignored --nocapture`
#[test]
#[ignore = "times depend on what else the machine does"]
fn times_beside_real_ones() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for limit in [None, Some(500), Some(1000)] {
        let opened = opened(limit);
        let plan = plan(&opened, 2048, 2.0, &[1, 2]);
        let disk = tempfile::tempdir().unwrap();
        let (size, bytes, seconds) = made(&opened, &disk.path().join("index"));
        let say = |what: &str, planned: f64, found: f64| {
            println!("{what}: {planned:.2} planned, {found:.2} found, {:.3}", planned / found);
        };
        println!("{} positions, probe of {} in {:.1} s", size.positions, plan.probe.positions, plan.probe.seconds);
        say("  seconds", plan.seconds, seconds);
        say("  MB", plan.index_bytes as f64 / 1e6, bytes as f64 / 1e6);

        // What two ranks would do, one after the other here.
        let over = &plan.ranks[1];
        let (started, n) = (Instant::now(), over.pieces);
        let piece = |number: usize| {
            let folder = disk.path().join(format!("piece-{number}"));
            opened.index_shard(&folder, Options::default(), [number, n], &Watch::nobody()).unwrap();
            folder
        };
        let pieces: Vec<PathBuf> = (0..n).map(piece).collect();
        let of_ranks = started.elapsed().as_secs_f64() / n as f64 * n.div_ceil(over.ranks) as f64;
        say("  seconds of the pieces of a rank", over.pieces_seconds, of_ranks);
        let started = Instant::now();
        let merged = merge(&pieces, &disk.path().join("merged"), Merged::Whole, &Watch::nobody()).unwrap();
        say("  seconds of the merge", over.merges_seconds, started.elapsed().as_secs_f64());
        let kept: u64 = pieces.iter().map(|folder| files(folder).1).sum();
        let peak = kept + bytes + merged.size().run_bytes();
        say("  MB on disk at the peak", over.disk_bytes as f64 / 1e6, peak as f64 / 1e6);
    }
}
