//! `directrix train` as a user runs it: what it leaves, that stopping changes nothing, and bad input.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Folder, directrix, done, failed, files, fixture, json, run, text};

/// Flags of a short run on the first tiny model: about a hundred steps.
const SHORT: &[&str] = &[
    "--tokens=6400",
    "--batch=64",
    "--buffer=512",
    "--context=16",
    "--log-every=10",
    "--evaluate-every=40",
    "--evaluation-prompts=5",
    "--checkpoint-every=7",
    "--learning-rate=1e-3",
];
const ORIGIN: &[&str] = &["--objective=combined_hoyer_sqrt", "--coefficient=1e-4,1.5e-4", "--resample=30,60"];

/// A training command on a tiny model and a corpus of ready ids.
fn train<'a>(model: &'a str, corpus: &'a str, out: &'a str, flags: &[&'a [&'a str]]) -> Vec<&'a str> {
    let first = ["train", "--model", model, "--corpus", corpus, "--out", out];
    first.into_iter().chain(SHORT.iter().copied()).chain(flags.concat()).collect()
}

fn start(args: &[&str]) -> Child {
    directrix().args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits for a new checkpoint; false if the run has ended.
fn next_checkpoint(child: &mut Child, out: &str) -> bool {
    let file = Path::new(out).join("checkpoint.safetensors");
    let modified = |file: &Path| fs::metadata(file).and_then(|about| about.modified()).ok();
    let before = modified(&file);
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if modified(&file).is_some_and(|now| Some(now) != before) {
            return true;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "no checkpoint in a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

fn bytes(out: &str) -> [Vec<u8>; 3] {
    ["sae_weights.safetensors", "sparsity.safetensors", "metrics.jsonl"]
        .map(|name| fs::read(Path::new(out).join(name)).unwrap())
}

#[test]
fn a_run_leaves_an_sae_that_other_commands_read() {
    let folder = Folder::new();
    let (model, corpus, out) = (fixture("neo-tiny"), folder.ids("ids.jsonl", 60, 64), folder.at("made/sae"));
    for objective in ["topk", "batch_topk", "matryoshka", "jumprelu", "gated", "l1"] {
        let out = format!("{out}-{objective}");
        let flags = ["--objective", objective, "--k=8", "--coefficient=0.01"];
        let shown = done(&train(&model, &corpus, &out, &[&flags]));
        assert!(shown.contains("explained") && shown.contains(&out), "{shown}");
        let evaluated = json(&[
            "evaluate",
            "--model",
            &model,
            "--sae",
            &out,
            "--corpus",
            &corpus,
            "--skip-first=0",
            "--include-last",
        ]);
        let l0 = evaluated["saes"][0]["l0"].as_f64().unwrap();
        assert!(l0 > 1.0, "{objective}: {l0}");
        assert!(objective != "topk" || l0 <= 8.0, "{l0}");
        let names: Vec<String> =
            fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        for name in ["cfg.json", "sparsity.safetensors", "metrics.jsonl", "events.out.tfevents.directrix", "train.toml"]
        {
            assert!(names.iter().any(|found| found == name), "{name} is not in {names:?}");
        }
        assert_eq!(names.len(), 6, "{names:?}");
        let metrics = fs::read_to_string(Path::new(&out).join("metrics.jsonl")).unwrap();
        assert_eq!(metrics.lines().count(), 10);
    }
    // What a run leaves is enough to run it again.
    let again = folder.at("again");
    let config = format!("{out}-l1/train.toml");
    done(&["train", "--model", &model, "--corpus", &corpus, "--config", &config, "--out", &again]);
    assert_eq!(bytes(&again)[0], bytes(&format!("{out}-l1"))[0]);
}

#[test]
fn a_run_that_is_killed_twice_gives_the_bits_of_one_that_is_not() {
    let folder = Folder::new();
    let (model, corpus) = (fixture("gpt2-tiny"), folder.ids("ids.jsonl", 60, 64));
    let (whole, killed) = (folder.at("whole"), folder.at("killed"));
    for objective in [ORIGIN, &["--objective=batch_topk", "--k=8", "--dead-below=0.005"]] {
        for out in [&whole, &killed] {
            let _ = fs::remove_dir_all(out);
        }
        done(&train(&model, &corpus, &whole, &[objective]));
        let args = train(&model, &corpus, &killed, &[objective]);
        let mut kills = 0;
        for _ in 0..2 {
            let mut child = start(&args);
            if next_checkpoint(&mut child, &killed) && child.kill().is_ok() {
                kills += 1;
            }
            child.wait().unwrap();
        }
        assert_eq!(kills, 2, "the run ended before it was killed");
        let output = run(&args);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("going on after step"), "{}", text(&output.stderr));
        assert!(bytes(&whole) == bytes(&killed), "the bits differ");
    }
}

#[cfg(unix)]
#[test]
fn a_run_is_alone_in_its_folder_and_ctrl_c_leaves_a_checkpoint_and_a_remark() {
    let folder = Folder::new();
    let (model, corpus, out) = (fixture("gpt2-tiny"), folder.ids("ids.jsonl", 60, 64), folder.at("out"));
    let mut args = train(&model, &corpus, &out, &[ORIGIN]);
    args.extend(["--tokens=64000000"]);
    let mut child = directrix().args(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    assert!(next_checkpoint(&mut child, &out));
    let message = failed(1, &args);
    assert!(
        message.trim_end().ends_with("is being written by another process; wait for it to end, or write elsewhere")
    );
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("run the same command again"), "{}", text(&output.stderr));
    assert!(Path::new(&out).join("checkpoint.safetensors").is_file());
}

#[test]
fn neither_a_cache_nor_company_nor_threads_change_an_sae() {
    let folder = Folder::new();
    let (model, corpus) = (fixture("neo-tiny"), folder.ids("ids.jsonl", 60, 64));
    let plain = folder.at("plain");
    done(&train(&model, &corpus, &plain, &[ORIGIN]));
    let cache = folder.at("cache");
    for (name, flags) in
        [("first", &["--cache", &cache][..]), ("second", &["--cache", &cache]), ("threads", &["--threads", "1"])]
    {
        let out = folder.at(name);
        done(&train(&model, &corpus, &out, &[ORIGIN, flags]));
        assert!(bytes(&plain) == bytes(&out), "{name} differs");
    }
    let filled = folder.at("filled");
    for part in ["--fill=1/2", "--fill=2/2"] {
        done(&train(&model, &corpus, &folder.at("none"), &[ORIGIN, &["--cache", &filled, part]]));
    }
    assert!(!Path::new(&folder.at("none")).exists());
    let out = folder.at("third");
    done(&train(&model, &corpus, &out, &[ORIGIN, &["--cache", &filled]]));
    assert!(bytes(&plain) == bytes(&out), "from a filled cache it differs");
    let swept = folder.at("swept");
    done(&train(
        &model,
        &corpus,
        &swept,
        &[ORIGIN, &["--sweep", "site=blocks.1.mlp.hook_post;blocks.0.mlp.hook_post"]],
    ));
    assert!(bytes(&plain) == bytes(&format!("{swept}/site-blocks.0.mlp.hook-post")), "in company it differs");
}

#[test]
fn processes_that_fill_and_read_a_cache_at_once_and_are_killed_leave_what_one_leaves() {
    let folder = Folder::new();
    let (model, corpus) = (fixture("neo-tiny"), folder.ids("ids.jsonl", 1500, 64));
    let (one, shared) = (folder.at("one"), folder.at("shared"));
    let (none, seeds) = (folder.at("none"), ["47", "48"]);
    let fill = |cache: &'_ str, part: &'_ str| -> Vec<String> {
        let flags = ["--cache", cache, "--fill", part, "--tokens", "64000"];
        train(&model, &corpus, &none, &[ORIGIN, &flags]).into_iter().map(String::from).collect()
    };
    let begin = |args: &[String]| start(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(begin(&fill(&one, "1/1")).wait().unwrap().success());
    let whole = files(Path::new(&one));
    assert!(whole.len() > 5, "{:?}", whole.keys());

    // Three parts, one of them twice, one killed twice, and two that train on what there is.
    let outs = seeds.map(|seed| folder.at(&format!("out-{seed}")));
    let trained = seeds
        .iter()
        .zip(&outs)
        .map(|(seed, out)| start(&train(&model, &corpus, out, &[ORIGIN, &["--cache", &shared, "--seed", seed]])));
    let filling = ["1/3", "2/3", "3/3", "3/3"].map(|part| begin(&fill(&shared, part)));
    let mut all: Vec<Child> = trained.chain(filling).collect();
    for milliseconds in [40, 90] {
        let mut killed = begin(&fill(&shared, "2/3"));
        std::thread::sleep(Duration::from_millis(milliseconds));
        killed.kill().unwrap();
        killed.wait().unwrap();
    }
    assert!(all.iter_mut().all(|child| child.wait().unwrap().success()));
    let mut left = files(Path::new(&shared));
    left.retain(|name, _| !name.ends_with(".partial"));
    for (name, bytes) in &whole {
        assert!(left.get(name) == Some(bytes), "{name} is not what one process leaves");
    }
    for (seed, out) in seeds.iter().zip(&outs) {
        let plain = folder.at(&format!("plain-{seed}"));
        done(&train(&model, &corpus, &plain, &[ORIGIN, &["--seed", seed]]));
        assert!(bytes(&plain) == bytes(out), "seed {seed} differs");
    }
}

#[test]
fn a_plan_trains_nothing_and_says_what_the_training_leaves() {
    let folder = Folder::new();
    let (model, corpus, out) = (fixture("neo-tiny"), folder.ids("ids.jsonl", 60, 64), folder.at("out"));
    let flags: &[&str] = &["--sweep", "objective=topk;batch_topk", "--k=5", "--expansion=16"];
    let args = train(&model, &corpus, &out, &[flags]);
    let text = done(&[&args[..], &["--plan"]].concat());
    assert!(text.contains("100 steps of 64 positions") && text.contains("objective-batch-topk"), "{text}");
    let plan = json(&[&args[..], &["--plan=3,2"]].concat())["plan"].take();
    assert!(!Path::new(&out).exists());
    let of = |value: &serde_json::Value, name: &str| value[name].as_f64().unwrap_or_else(|| panic!("{name}: {value}"));
    let near = |planned: f64, found: u64| {
        assert!((planned / found as f64 - 1.0).abs() < 0.1, "planned {planned}, found {found}");
    };

    let mut child = start(&args);
    assert!(next_checkpoint(&mut child, &out));
    near(of(&plan, "checkpoint_bytes"), fs::metadata(Path::new(&out).join("checkpoint.safetensors")).unwrap().len());
    assert!(child.wait().unwrap().success());
    let saes = files(Path::new(&out));
    let weights = saes.iter().filter(|(name, _)| name.ends_with(".safetensors"));
    near(of(&plan, "sae_bytes"), weights.map(|(_, bytes)| bytes.len() as u64).sum());
    for sae in plan["saes"].as_array().unwrap() {
        assert_eq!(of(sae, "active"), 5.0);
    }

    // More ranks give each other more and have less to do; only divided directions are not held whole.
    let ranks = plan["ranks"].as_array().unwrap();
    let names = ranks.iter().map(|over| format!("{} {}", over["ranks"], over["split"].as_str().unwrap()));
    assert_eq!(names.collect::<Vec<_>>(), ["3 positions", "3 directions", "2 positions", "2 directions"]);
    for (three, two) in [(0, 2), (1, 3)].map(|(three, two)| (&ranks[three], &ranks[two])) {
        assert!(
            of(three, "given_bytes") > of(two, "given_bytes") && of(three, "step_seconds") < of(two, "step_seconds")
        );
    }
    assert!(of(&ranks[1], "memory_bytes") < of(&ranks[0], "memory_bytes"));
    let message = failed(2, &[&args[..], &["--plan", "--fill=1/2"]].concat());
    assert!(message.contains("cannot be used with"), "{message}");
}

#[test]
fn a_finished_run_is_not_begun_again_and_other_saes_are_kept() {
    let folder = Folder::new();
    let (model, corpus, out) = (fixture("neo-tiny"), folder.ids("ids.jsonl", 60, 64), folder.at("out"));
    let args = train(&model, &corpus, &out, &[ORIGIN]);
    done(&args);
    let before = bytes(&out);
    let output = run(&args);
    assert!(output.status.success() && text(&output.stderr).contains("nothing was done"));
    let message = failed(1, &train(&model, &corpus, &out, &[ORIGIN, &["--seed=48"]]));
    assert!(message.contains("other options"), "{message}");
    assert!(before == bytes(&out));
}

#[test]
fn training_goes_on_from_an_sae_and_reaches_a_target() {
    let folder = Folder::new();
    let (model, corpus, first, second) =
        (fixture("neo-tiny"), folder.ids("ids.jsonl", 60, 64), folder.at("first"), folder.at("second"));
    let l1 = ["--objective=l1", "--penalty-over=mean", "--coefficient=0.1", "--target-l0=20", "--tokens=128k"];
    done(&train(&model, &corpus, &first, &[&l1, &["--expansion=2", "--checkpoint-every=0"]]));
    let l0 = |out: &str| {
        let found = json(&[
            "evaluate",
            "--model",
            &model,
            "--sae",
            out,
            "--corpus",
            &corpus,
            "--skip-first=0",
            "--include-last",
        ]);
        found["saes"][0]["l0"].as_f64().unwrap()
    };
    assert!((15.0..26.0).contains(&l0(&first)), "{}", l0(&first));
    // Without learning, what is gone on from stays.
    let still = ["--objective=l1", "--coefficient=0.003", "--learning-rate=1e-30", "--expansion=2", "--from", &first];
    done(&train(&model, &corpus, &second, &[&still]));
    assert!((l0(&first) - l0(&second)).abs() < 1e-3);
    let message = failed(2, &train(&model, &corpus, &folder.at("third"), &[&still, &["--objective=gated"]]));
    assert!(message.contains("cannot go on from"), "{message}");
}

#[test]
fn training_goes_on_only_on_weights_processed_as_before() {
    let folder = Folder::new();
    let (model, corpus, first, second) =
        (fixture("neo-tiny"), folder.ids("ids.jsonl", 60, 64), folder.at("first"), folder.at("second"));
    let site =
        ["--site=blocks.0.hook_resid_post", "--objective=l1", "--coefficient=0.003", "--tokens=8k", "--expansion=2"];
    done(&train(&model, &corpus, &first, &[&site]));
    let on = [&site[..], &["--from", &first]].concat();
    let message = failed(1, &train(&model, &corpus, &second, &[&on, &["--no-center-writing-weights"]]));
    assert!(message.contains("cannot go on from") && message.contains("`--no-center-writing-weights`"), "{message}");
    done(&train(&model, &corpus, &second, &[&on, &["--no-center-unembed"]]));
}

#[test]
fn bad_options_are_refused_before_anything_is_written() {
    let folder = Folder::new();
    let (model, corpus, out) = (fixture("neo-tiny"), folder.ids("ids.jsonl", 60, 64), folder.at("out"));
    for (flags, expected) in [
        (&["--site=blocks.7.mlp.hook_post", "--coefficient=1,1"][..], "blocks.7.mlp.hook_post"),
        (&["--site=blocks.0.attn.hook_pattern", "--coefficient=1,1"], "hook_pattern"),
        (&["--site=blocks.0.attn.hook_z", "--head=9", "--coefficient=1,1"], "head 9"),
        (&["--coefficient=1"], "takes 2 coefficients, not 1"),
        (&["--objective=l2"], "there is no `l2`"),
        (&["--objective=topk", "--k=0"], "k: 0 of"),
        (&["--objective=matryoshka", "--widths=9,8"], "widths"),
        (&["--objective=topk", "--buffer=100"], "do not hold two batches of 64; give 128"),
        (&["--objective=topk", "--buffer=100k"], "do not fill a buffer of 100000"),
        (&["--objective=topk", "--context=1"], "context"),
        (&["--objective=topk", "--batch=0"], "batch: it is 0; give a number from 1 on"),
        (&["--objective=topk", "--buffer=10B"], "from 2 to 4294967295"),
        (&["--objective=topk", "--resample=101"], "resample: 101 is the step, and the run has 100"),
        (&["--objective=topk", "--expansion=0"], "expansion"),
        (&["--objective=topk", "--learning-rate=-1"], "learning-rate"),
        (&["--objective=topk", "--betas=0.9"], "betas"),
        (&["--objective=topk", "--windows=rows"], "windows"),
        (&["--objective=topk", "--sweep=k"], "NAME=VALUE"),
        (&["--objective=topk", "--sweep=batch=1;2"], "shared by all"),
        (&["--objective=topk", "--sweep=k=8;8"], "same folder"),
        (&["--objective=topk", "--from=no/such/sae"], "no/such/sae"),
        (&["--objective=topk", "--config=no-such.toml"], "no-such.toml"),
    ] {
        let output = run(&train(&model, &corpus, &out, &[flags]));
        let message = text(&output.stderr);
        assert!(matches!(output.status.code(), Some(1 | 2)), "{flags:?}: {message}");
        assert!(message.contains(expected), "{flags:?}: {message}");
        let left = fs::read_dir(&out).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{flags:?} left something");
    }
    let config = folder.write("bad.toml", "objective = 'topk'\nlerning-rate = 1\n");
    let message = failed(2, &train(&model, &corpus, &out, &[&["--config", &config]]));
    assert!(message.contains("lerning-rate"), "{message}");
    failed(2, &["train", "--tokens", "many"]);
}

#[test]
fn a_checkpoint_of_another_run_or_a_damaged_one_is_refused_and_kept() {
    let folder = Folder::new();
    let (model, corpus, out) = (fixture("neo-tiny"), folder.ids("ids.jsonl", 60, 64), folder.at("out"));
    let args = train(&model, &corpus, &out, &[ORIGIN]);
    let mut child = start(&args);
    assert!(next_checkpoint(&mut child, &out));
    child.kill().unwrap();
    child.wait().unwrap();
    let file = Path::new(&out).join("checkpoint.safetensors");
    let whole = fs::read(&file).unwrap();
    let message = failed(1, &train(&model, &corpus, &out, &[ORIGIN, &["--seed=48"]]));
    assert!(message.contains("seed` was 47 and is 48"), "{message}");
    for damaged in [whole[..whole.len() / 2].to_vec(), Vec::new(), b"nonsense".to_vec()] {
        fs::write(&file, &damaged).unwrap();
        let message = failed(1, &args);
        assert!(message.contains("damaged"), "{message}");
        assert_eq!(fs::read(&file).unwrap(), damaged);
    }
}

#[test]
fn numbers_that_are_not_finite_stop_the_run_and_keep_the_last_checkpoint() {
    let folder = Folder::new();
    let (model, corpus, out) = (fixture("neo-tiny"), folder.ids("ids.jsonl", 60, 64), folder.at("out"));
    // A gradient whose square, which Adam keeps, is no longer a number when the coefficient has risen.
    let flags = ["--objective=l1", "--coefficient=1e18", "--coefficient-warm-up=60", "--checkpoint-every=1"];
    let message = failed(1, &train(&model, &corpus, &out, &[&flags]));
    assert!(message.contains("is not finite") && message.contains("step "), "{message}");
    assert!(Path::new(&out).join("checkpoint.safetensors").is_file(), "{message}");
}

/// A run on a disk without room: a limit on the size of files stands for it, as writes fail in the same way.
#[cfg(unix)]
fn without_room(args: &[&str]) -> std::process::Output {
    Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_directrix")])
        .args(args)
        .output()
        .unwrap()
}

#[cfg(unix)]
#[test]
fn a_cache_on_a_disk_without_room_says_so_and_is_filled_when_there_is_some() {
    let folder = Folder::new();
    let (model, corpus, cache) = (fixture("neo-tiny"), folder.ids("ids.jsonl", 60, 64), folder.at("cache"));
    let flags: &[&str] = &["--cache", &cache];
    for (name, part) in [("trained", None), ("none", Some("--fill=1/1"))] {
        let out = folder.at(name);
        let output = without_room(&train(&model, &corpus, &out, &[ORIGIN, flags, part.as_slice()]));
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("windows-") && message.contains("check that the disk has room"), "{message}");
        assert!(files(Path::new(&cache)).keys().all(|name| !name.ends_with(".parquet")), "{name}");
    }
    let (plain, after) = (folder.at("plain"), folder.at("after"));
    done(&train(&model, &corpus, &plain, &[ORIGIN]));
    for _ in 0..2 {
        done(&train(&model, &corpus, &after, &[ORIGIN, flags]));
        assert!(bytes(&plain) == bytes(&after));
        fs::remove_dir_all(&after).unwrap();
    }
}

#[cfg(unix)]
#[test]
fn a_disk_without_room_is_said_at_the_checkpoint_and_fails_at_the_end() {
    let folder = Folder::new();
    let (model, corpus, out) = (fixture("neo-tiny"), folder.ids("ids.jsonl", 60, 64), folder.at("out"));
    let output = without_room(&train(&model, &corpus, &out, &[ORIGIN]));
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("alarm: no checkpoint was written, the last one stays"), "{message}");
    assert!(message.lines().last().unwrap().contains("check that the disk has room"), "{message}");
    let names: Vec<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name == "cfg.json" || name.to_string_lossy().contains("partial")), "{names:?}");
}
