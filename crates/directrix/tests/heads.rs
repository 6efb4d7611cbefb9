//! An SAE on one head's output, from training to a study's report.

mod common;

use std::fs;

use common::{Folder, done, failed, json};
use serde_json::Value;

const SHORT: &[&str] = &["--tokens=4096", "--batch=128", "--buffer=2048", "--context=64", "--evaluation-prompts=5"];

#[test]
fn an_sae_on_one_head_goes_all_the_way() {
    let folder = Folder::new();
    for (site, head, width) in [("blocks.1.attn.hook_z", "3", 16), ("blocks.0.attn.hook_result", "5", 128)] {
        let sae = folder.at(&format!("head-{head}"));
        let train =
            ["train", "--site", site, "--head", head, "--objective=topk", "--k=8", "--expansion=8", "--out", &sae];
        let shown = done(&[&train, SHORT].concat());
        assert!(
            shown.split_whitespace().collect::<Vec<_>>().join(" ").contains(&format!("head {head} of blocks.")),
            "{shown}"
        );
        let config: Value = serde_json::from_slice(&fs::read(format!("{sae}/cfg.json")).unwrap()).unwrap();
        let of = &config["metadata"];
        assert_eq!((of["hook_name"].as_str(), config["d_in"].as_u64()), (Some(site), Some(width)), "{config}");
        assert_eq!(of["hook_head_index"].to_string(), head);

        let evaluated = json(&["evaluate", "--sae", &sae, "--limit=20"]);
        assert!(evaluated["saes"][0]["l0"].as_f64().unwrap() <= 8.0, "{evaluated}");

        // What fires somewhere, by the index.
        let index = folder.at(&format!("index-{head}"));
        done(&["index", "--sae", &sae, "--limit=100", "--out", &index]);
        let directions = 8 * width as usize;
        let density = |direction: usize| {
            let shown = json(&["direction", &direction.to_string(), "--index", &index]);
            shown["density"].as_f64().unwrap_or_default()
        };
        let direction = (0..directions).find(|direction| density(*direction) > 0.01).unwrap().to_string();

        let text = "Tim had a toy. His mom said, \"I like it.\"";
        let stories = ["--prompts", "tinystories-2l/stories.txt", "--limit=20"];
        let ablate = ["ablate", "--sae", &sae, "--directions", &direction];
        let everywhere = json(&[&ablate[..], &stories, &["--everywhere"]].concat());
        assert!(everywhere["overall"]["loss_increase"].as_f64().unwrap().abs() > 0.0, "{everywhere}");
        done(&["ablate", "--sae", &sae, "--directions", &direction, "--text", text, "--reconstruct"]);

        // Everything of a study that can be made of it.
        let study = folder.write(
            &format!("head-{head}.toml"),
            format!(
                "title = 'One head'\nmodel = 'tinystories-2l'\nsaes = ['{sae}']\ncorpus = 'tinystories-2l/stories.txt'\nlimit = 150\n\
                 directions = [{direction}]\n[behaviour]\ncontains = 'said, \"'\nends_with = '.\"'\n"
            ),
        );
        let out = folder.at(&format!("study-{head}"));
        done(&["study", &study, "--out", &out]);
        let report: Value = serde_json::from_slice(&fs::read(format!("{out}/study.json")).unwrap()).unwrap();
        assert!(report["lead"].as_str().unwrap().contains(&format!("head {head} of {site}")), "{}", report["lead"]);
        let made: Vec<&str> =
            report["sections"].as_array().unwrap().iter().map(|section| section["name"].as_str().unwrap()).collect();
        for section in ["single-ablations", "joint-ablation", "loss-recovered", "remainder", "direction", "directions"]
        {
            assert!(made.contains(&section), "{section} of {made:?}");
        }
        let more = ["component_ablation", "encoded_ablation", "subspace", "similarity"];
        let sections = more.map(|kind| format!("[[section]]\nkind = '{kind}'\n")).concat();
        let study = folder.write("more.toml", fs::read_to_string(&study).unwrap() + &sections);
        done(&["study", &study, "--out", &out]);

        // A matching with itself by another name.
        let copy = folder.at(&format!("copy-{head}"));
        fs::create_dir(&copy).unwrap();
        for name in ["cfg.json", "sae_weights.safetensors"] {
            fs::copy(format!("{sae}/{name}"), format!("{copy}/{name}")).unwrap();
        }
        let top = directions.to_string();
        let matched = json(&["circuits", "match", "--sae", &sae, "--sae", &copy, "--top", &top]);
        let rows = matched["rows"].as_array().unwrap();
        assert!(rows.len() == directions && rows.iter().all(|row| row["in_first"] == row["in_second"]));
    }
    let [one, other] = ["head-3", "head-5"].map(|name| folder.at(name));
    let message = failed(1, &["circuits", "match", "--sae", &one, "--sae", &other]);
    assert!(
        message.contains("head 3 of blocks.1.attn.hook_z") && message.contains("give two of the same"),
        "{message}"
    );
    let message = failed(2, &["circuits", "match", "--sae", &one, "--sae", &one, "--by", "activations"]);
    assert!(message.contains("--index"), "{message}");
}
