//! What must hold for every run: a batch equals its parts, resuming equals running again, a cache equals no cache.

use directrix_corpus::Prompts;
use directrix_model::{
    Ask, BlockHook, Case, Folder, HookPoint, Intervention, Kind, Model, Positions, Processing, Sampling, Target,
};
use proptest::prelude::*;

fn model(name: &str, processing: Processing) -> Model {
    let path = format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    Model::load(&Folder::open(&path).unwrap(), processing).unwrap()
}

fn models() -> impl Strategy<Value = Model> {
    let names = prop::sample::select(vec!["neo-tiny", "gpt2-tiny", "neox-tiny"]);
    (names, any::<bool>())
        .prop_map(|(name, processed)| model(name, if processed { Processing::default() } else { Processing::none() }))
}

fn prompts() -> impl Strategy<Value = Prompts> {
    prop::collection::vec(prop::collection::vec(0..128_u32, 2..30), 1..6).prop_map(Prompts::from_rows)
}

fn kinds(width: usize) -> Vec<Kind> {
    let row: Vec<f32> = (0..width).map(|i| (i as f32 * 0.7).sin()).collect();
    vec![
        Kind::Zero,
        Kind::Scale(-0.5),
        Kind::Set(row.clone().into()),
        Kind::Add(row.clone().into()),
        Kind::Project(row.into()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_prompt_gives_the_same_bits_alone_and_in_a_batch(model in models(), prompts in prompts(), pick: usize) {
        let hooks = HookPoint::all(model.config()).into_iter().filter(|h| !matches!(h, HookPoint::Block(_, BlockHook::AttnScores | BlockHook::Pattern)));
        let ask = Ask::capture(hooks.clone()).with_losses();
        let batch = model.run(&prompts, &ask, &[]).unwrap();
        let i = pick % prompts.len();
        let alone = model.run(&prompts.range(i..i + 1), &ask, &[]).unwrap();
        let rows = prompts.offsets()[i]..prompts.offsets()[i + 1];
        for hook in hooks {
            prop_assert_eq!(alone.captured(hook).data(), batch.captured(hook).row_range(rows.clone()), "{}", hook);
        }
        prop_assert_eq!(alone.losses(), &batch.losses()[rows.start - i..rows.end - i - 1]);
    }

    #[test]
    fn asking_for_less_does_not_change_what_is_given(model in models(), prompts in prompts(), pick: usize) {
        let all = HookPoint::all(model.config());
        let hook = all[pick % all.len()];
        let whole = model.run(&prompts, &Ask::capture([hook]).with_logits(Positions::All), &[]).unwrap();
        let part = model.run(&prompts, &Ask::nothing().with_capture(hook, Positions::FromEnd(2)), &[]).unwrap();
        for i in 0..prompts.len() {
            let row = prompts.offsets()[i + 1] - 2;
            prop_assert_eq!(part.captured(hook).row(i), whole.captured(hook).row(row), "{}", hook);
        }
        let logits = model.run(&prompts, &Ask::nothing().with_logits(Positions::FromEnd(1)), &[]).unwrap();
        for i in 0..prompts.len() {
            prop_assert_eq!(logits.logits().row(i), whole.logits().row(prompts.offsets()[i + 1] - 1));
        }
    }

    #[test]
    fn resuming_has_the_bits_of_running_again(model in models(), prompts in prompts(), picks in prop::collection::vec((any::<usize>(), any::<usize>(), any::<usize>(), any::<usize>()), 1..6), from_end: bool) {
        let hooks = HookPoint::all(model.config()).into_iter().filter(|h| *h != HookPoint::UnembedOut && !h.to_string().ends_with("scale")).collect::<Vec<_>>();
        let out = HookPoint::UnembedIn;
        let mut cases = Vec::new();
        for (hook, prompt, position, kind) in picks {
            let hook = hooks[hook % hooks.len()];
            let by_key = matches!(hook, HookPoint::Block(_, BlockHook::AttnScores | BlockHook::Pattern));
            let mut kinds = kinds(hook.shape(model.config(), 0).iter().product());
            if by_key { kinds.truncate(2) }
            let prompt = prompt % prompts.len();
            let position = if from_end { prompts.get(prompt).len() - 2 } else { position % prompts.get(prompt).len() };
            let kind = kinds[kind % kinds.len()].clone();
            cases.push(Case { prompt, until: prompts.get(prompt).len() - 1 - usize::from(from_end), interventions: vec![Intervention::new(hook, Positions::At(vec![position]), kind)] });
        }
        let first = cases.iter().map(|c| c.interventions[0].hook).min().unwrap();
        let kept = if from_end { Positions::FromEnd(2) } else { Positions::All };
        let base = model.run(&prompts, &Ask::nothing().with_logits(kept.clone()).resumable(first, kept), &[]).unwrap();
        let last = |case: usize| Target { prompt: case, position: cases[case].until, token: 3 };
        let ask = Ask::nothing().with_capture(out, Positions::FromEnd(1)).with_predictions((0..cases.len()).map(last));
        let resumed = model.resume(&prompts, &base, &cases, &ask).unwrap();
        for (i, case) in cases.iter().enumerate() {
            let prompt = Prompts::from_rows([&prompts.get(case.prompt)[..=case.until]]);
            let ask = Ask::nothing().with_capture(out, Positions::FromEnd(1)).with_predictions([Target { prompt: 0, ..last(i) }]);
            let again = model.run(&prompt, &ask, &case.interventions).unwrap();
            prop_assert_eq!(again.captured(out).row(0), resumed.captured(out).row(i), "{:?}", case);
            prop_assert_eq!(again.predictions()[0], resumed.predictions()[i]);
        }
    }

    #[test]
    fn a_key_value_cache_does_not_change_what_is_generated(model in models(), prompt in prop::collection::vec(0..128_u32, 1..20), seed: u64) {
        let sampling = Sampling { temperature: 0.8, top_k: Some(20), seed };
        let whole = model.generate(&prompt, 12, None, sampling, |_| ()).unwrap();
        prop_assert_eq!(&model.generate(&prompt, 12, None, sampling, |_| ()).unwrap(), &whole);
        let greedy = Sampling { temperature: 0.0, ..sampling };
        let mut tokens = prompt.clone();
        for token in model.generate(&prompt, 6, None, greedy, |_| ()).unwrap() {
            let run = model.run(&Prompts::from_rows([&tokens]), &Ask::nothing().with_logits(Positions::FromEnd(1)), &[]).unwrap();
            let row = run.logits().row(0);
            prop_assert!(row.iter().all(|x| *x <= row[token as usize]));
            tokens.push(token);
        }
    }
}

#[test]
fn interventions_do_what_they_say() {
    let model = model("neo-tiny", Processing::default());
    let prompts = Prompts::from_rows([[0_u32, 5, 9, 3, 7]]);
    let hook: HookPoint = "blocks.1.mlp.hook_post".parse().unwrap();
    let captured = |kind| {
        let intervention = Intervention::new(hook, Positions::At(vec![2]), kind);
        model.run(&prompts, &Ask::capture([hook]), &[intervention]).unwrap().captured(hook).clone()
    };
    let base = model.run(&prompts, &Ask::capture([hook]), &[]).unwrap().captured(hook).clone();
    let changed = captured(Kind::Zero);
    assert!(changed.row(2).iter().all(|x| *x == 0.0));
    assert_eq!(changed.row(1), base.row(1));
    assert_eq!(captured(Kind::Scale(2.0)).row(2)[5], base.row(2)[5] * 2.0);
    let along: Vec<f32> = (0..128).map(|i| i as f32).collect();
    let projected = captured(Kind::Project(along.clone().into()));
    let dot: f32 = projected.row(2).iter().zip(&along).map(|(x, a)| x * a).sum();
    assert!(dot.abs() < 1e-2);
    let map = Kind::Map(std::sync::Arc::new(|place, row: &mut [f32]| row[0] = place.position as f32));
    assert_eq!(captured(map).row(2)[0], 2.0);
}

#[test]
fn what_does_not_exist_is_refused_with_its_name() {
    let model = model("neox-tiny", Processing::default());
    let run = |rows: &[&[u32]], hook: &str| {
        let ask = Ask::capture([hook.parse::<HookPoint>()?]);
        model.run(&Prompts::from_rows(rows), &ask, &[]).map(|_| ())
    };
    let message = |rows: &[&[u32]], hook: &str| run(rows, hook).unwrap_err().to_string();
    assert!(message(&[&[1, 999]], "hook_embed").contains("token 999 is outside the vocabulary of 128"));
    assert!(message(&[&[1; 65]], "hook_embed").contains("65 positions; the model takes 1 to 64"));
    assert!(message(&[&[]], "hook_embed").contains("0 positions"));
    assert!(message(&[&[1]], "blocks.0.hook_resid_mid").contains("parallel"));
    assert!(message(&[&[1]], "blocks.7.hook_resid_pre").contains("it has 2 blocks"));
    assert!(message(&[&[1]], "hook_pos_embed").contains("rotary"));
    assert!(message(&[&[1]], "blocks.0.hook_nonsense").contains("no hook point `blocks.0.hook_nonsense`"));
}

#[test]
fn a_heads_own_input_changes_that_head_alone() {
    for name in ["neo-tiny", "gpt2-tiny", "neox-tiny"] {
        for processing in [Processing::default(), Processing::none()] {
            let model = model(name, processing);
            let prompts = Prompts::from_rows([[0_u32, 5, 9, 3, 7]]);
            let [input, q, k]: [HookPoint; 3] =
                ["blocks.1.hook_q_input", "blocks.1.attn.hook_q", "blocks.1.attn.hook_k"].map(|h| h.parse().unwrap());
            let pre: HookPoint = "blocks.1.hook_resid_pre".parse().unwrap();
            let ask = Ask::capture([pre, input, q, k]);
            let base = model.run(&prompts, &ask, &[]).unwrap();
            let (d, dh) = (model.config().d_model, model.config().attention.d_head);
            assert_eq!(&base.captured(input).row(3)[d..2 * d], base.captured(pre).row(3));
            // Head 1 reads, at position 3, what stands at position 1; through hook_resid_pre all heads would.
            let other: std::sync::Arc<[f32]> = base.captured(pre).row(1).into();
            let swap = other.clone();
            let kind = Kind::Map(std::sync::Arc::new(move |_, row: &mut [f32]| row[d..2 * d].copy_from_slice(&swap)));
            let one = Intervention::new(input, Positions::At(vec![3]), kind);
            let changed = model.run(&prompts, &ask, &[one]).unwrap();
            let all = Intervention::new(pre, Positions::At(vec![3]), Kind::Set(other));
            let wanted = model.run(&prompts, &ask, &[all]).unwrap();
            let head = |run: &directrix_model::Run, h: usize| run.captured(q).row(3)[h * dh..(h + 1) * dh].to_vec();
            for h in 0..model.config().attention.query_heads {
                let from = if h == 1 { &wanted } else { &base };
                for (a, b) in head(&changed, h).iter().zip(head(from, h)) {
                    assert!((a - b).abs() < 1e-5, "{name} head {h}");
                }
            }
            assert_eq!(changed.captured(k), base.captured(k));
        }
    }
}
