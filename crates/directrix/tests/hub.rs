//! The command with models, SAEs and corpora of a hub, of which a stand-in is on this machine.

mod common;
#[path = "../../lab/tests/hub/mod.rs"]
mod hub;

use std::process::Output;
use std::time::Duration;

use common::{Folder, directrix, fixture, text};
use hub::{Gate, How, StandIn, TOKEN, files_of};
use serde_json::Value;

const WANTED: [&str; 6] = ["--model", "owner/model", "--sae", "owner/saes:l0", "--corpus", "owner/data:validation"];

/// A hub with a model, an SAE and a dataset, and a folder for the cache.
fn place() -> (StandIn, Folder, [String; 3]) {
    let (stand_in, folder) = (StandIn::new(), Folder::new());
    let sae = files_of(fixture("gpt2-tiny/sae-l0"), &["cfg.json", "sae_weights.safetensors"]);
    let sae =
        ["l0/cfg.json", "l0/sae_weights.safetensors"].into_iter().zip(sae).map(|(name, (_, bytes))| (name, bytes));
    let ids = std::fs::read(folder.ids("ids.jsonl", 20, 64)).unwrap();
    let commits = [
        stand_in.add("models", "owner/model", files_of(fixture("gpt2-tiny"), &["config.json", "model.safetensors"])),
        stand_in.add("models", "owner/saes", sae),
        stand_in.add("datasets", "owner/data", [("data/validation-00000-of-00001.jsonl", ids)]),
    ];
    (stand_in, folder, commits)
}

fn run(folder: &Folder, environment: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = directrix();
    for name in ["HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        command.env_remove(name);
    }
    command.env("HF_HOME", folder.at("hf")).envs(environment.iter().copied()).args(args).output().unwrap()
}

fn done(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_model_saes_and_a_corpus_of_the_hub_are_evaluated() {
    let (stand_in, folder, [model, _, data]) = place();
    let args = [&["evaluate", "--json"][..], &WANTED].concat();
    let hub = ("HF_ENDPOINT", stand_in.address.as_str());
    stand_in.fail("files:/", 1, How::Slow(Duration::from_millis(40)));
    let first = run(&folder, &[hub], &args);
    let result = done(&first);
    assert_eq!(result["model"], format!("owner/model@{model}"));
    assert_eq!(result["corpus"], format!("owner/data@{data}:validation"));
    let said = text(&first.stderr);
    assert!(said.contains("downloading owner/model: ") && said.contains("kB/s"), "{said}");
    assert!(!stand_in.requests().is_empty());

    let sae = fixture("gpt2-tiny/sae-l0");
    let (model, ids) = (fixture("gpt2-tiny"), folder.at("ids.jsonl"));
    let local = done(&run(&folder, &[], &["evaluate", "--json", "--model", &model, "--sae", &sae, "--corpus", &ids]));
    let without_names = |mut result: Value| {
        result.as_object_mut().unwrap().retain(|key, _| key != "model" && key != "corpus");
        result["saes"][0].as_object_mut().unwrap().remove("sae");
        result
    };
    let expected = without_names(local).to_string().replace("sae-l0", "l0");
    assert_eq!(without_names(result.clone()).to_string(), expected);

    let again = run(&folder, &[hub], &args);
    assert_eq!((done(&again), text(&again.stderr)), (result.clone(), String::new()));
    assert_eq!(done(&run(&folder, &[("HF_HUB_OFFLINE", "1")], &args)), result);
    assert_eq!(stand_in.requests(), []);
}

#[test]
fn an_index_knows_its_inputs_by_their_commits() {
    let (stand_in, folder, [model, saes, data]) = place();
    let (hub, out) = (("HF_ENDPOINT", stand_in.address.as_str()), folder.at("index"));
    let output = run(&folder, &[hub], &[&["index", "--out", &out][..], &WANTED].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let index: Value = serde_json::from_slice(&std::fs::read(folder.path().join("index/index.json")).unwrap()).unwrap();
    let shown = index.to_string();
    for name in
        [format!("owner/model@{model}"), format!("owner/saes@{saes}:l0"), format!("owner/data@{data}:validation")]
    {
        assert!(shown.contains(&format!("\"{name}\"")), "{shown}");
    }
    stand_in.requests();
    // The index's own names open what it was made of.
    let offline = ("HF_HUB_OFFLINE", "1");
    let direction = run(&folder, &[offline], &["direction", "3", "--index", &out]);
    assert!(direction.status.success(), "{}", text(&direction.stderr));
    assert_eq!(stand_in.requests(), []);
}

#[test]
fn what_goes_wrong_is_one_sentence() {
    let (stand_in, folder, _) = place();
    stand_in.add_gated("models", "owner/gated", Gate::Gated, [("config.json", "{}")]);
    let hub = ("HF_ENDPOINT", stand_in.address.as_str());
    let wrong = ("HF_TOKEN", "hf_wrong");
    let nowhere = ("HF_ENDPOINT", "http://127.0.0.1:1");
    for (environment, model, part) in [
        (&[hub][..], "owner/none", "nothing on disk is called `owner/none`"),
        (&[hub], "owner/model@v2", "no revision `v2`"),
        (&[hub], "owner/gated", "accept its licence"),
        (&[hub, wrong], "owner/gated", "is gated"),
        (&[("HF_HUB_OFFLINE", "1")], "owner/model", "is not in the cache"),
        (&[nowhere], "gpt2-small", "cannot reach 127.0.0.1:1 for `gpt2`"),
    ] {
        let output = run(&folder, environment, &["generate", "--prompt", "a", "--model", model]);
        let message = text(&output.stderr);
        assert_eq!((output.status.code(), message.matches("error:").count()), (Some(1), 1), "{message}");
        assert!(message.contains(part) && !message.contains("panicked"), "{message}");
    }
    let private = files_of(fixture("gpt2-tiny"), &["config.json", "model.safetensors"]);
    stand_in.add_gated("models", "owner/private", Gate::Private, private);
    let ids = folder.at("ids.jsonl");
    let capture = ["capture", "--model", "owner/private", "--prompts", &ids, "--logits", "--out"];
    let output = run(&folder, &[hub, ("HF_TOKEN", TOKEN)], &[&capture[..], &[&folder.at("out.safetensors")]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
}
