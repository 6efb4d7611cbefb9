//! What must hold for every run: a batch equals its parts, resuming equals running again, a cache equals no cache.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use common::{hooks, intervention, model, models, prompts};
use directrix_corpus::{Prompts, Watch};
use directrix_kernels::Matrix;
use directrix_model::{
    Ask, BlockHook, Case, Columns, Edit, Error, Function, HookPoint, Hooked, Intervention, NormWeights, Positions,
    Processing, Reader, RowAt, Rows, Run, Sampling, Spot, Target,
};
use proptest::prelude::*;

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
    fn resuming_has_the_bits_of_running_again(model in models(), prompts in prompts(), picks in prop::collection::vec(any::<[usize; 5]>(), 1..6), from_end: bool, by_way_of: usize) {
        let (hooks, out) = (hooks(&model), HookPoint::UnembedIn);
        let mut cases = Vec::new();
        for [hook, prompt, position, kind, columns] in picks {
            let (hook, prompt) = (hooks[hook % hooks.len()], prompt % prompts.len());
            let len = prompts.get(prompt).len();
            let until = len - 1 - usize::from(from_end);
            // Those after the last that is computed are left out, with their rows.
            let mut positions = if from_end { vec![len - 1, until] } else { vec![position % len, (position / len) % len, 0] };
            positions.dedup();
            let change = intervention(&model, hook, Positions::At(positions.clone()), positions.len(), [kind, columns]);
            cases.push(Case { prompt, until, interventions: vec![change] });
        }
        let first = cases.iter().map(|c| c.interventions[0].hook).min().unwrap();
        let earlier = hooks[by_way_of % (hooks.iter().position(|h| *h == first).unwrap() + 1)];
        let kept = if from_end { Positions::FromEnd(2) } else { Positions::All };
        let ask = Ask::nothing().with_logits(kept.clone());
        let session = model.session(prompts.clone(), &ask, first, kept.clone()).unwrap();
        let advanced = model.session(prompts.clone(), &ask, earlier, kept).unwrap().advance(first).unwrap();
        let last = |case: usize| Target { prompt: case, position: cases[case].until, token: 3 };
        let ask = Ask::nothing().with_capture(out, Positions::FromEnd(1)).with_predictions((0..cases.len()).map(last));
        for session in [session, advanced] {
            let resumed = session.resume(&cases, &ask).unwrap();
            for (i, case) in cases.iter().enumerate() {
                // The whole prompt: an edit may be of positions after the last that is looked at.
                let at = Positions::At(vec![case.until]);
                let ask = Ask::nothing().with_capture(out, at).with_predictions([Target { prompt: 0, ..last(i) }]);
                let again = model.run(&Prompts::from_rows([prompts.get(case.prompt)]), &ask, &case.interventions).unwrap();
                prop_assert_eq!(again.captured(out).row(0), resumed.captured(out).row(i), "{:?}", case);
                prop_assert_eq!(again.predictions()[0], resumed.predictions()[i]);
            }
        }
    }

    #[test]
    fn an_intervention_read_back_is_the_same(model in models(), picks: [usize; 3], positions in prop::collection::vec(0..9_usize, 0..4)) {
        let hooks = hooks(&model);
        let change = intervention(&model, hooks[picks[0] % hooks.len()], Positions::At(positions.clone()), positions.len(), [picks[1], picks[2]]);
        let json = serde_json::to_string(&change).unwrap();
        let read = serde_json::from_str::<Intervention>(&json).unwrap();
        prop_assert_eq!(serde_json::to_string(&read).unwrap(), json);
        prop_assert_eq!(read, change);
    }

    #[test]
    fn components_add_up_to_what_is_read(model in models(), prompts in prompts()) {
        let layer = model.config().n_layers - 1;
        let ln2 = model.weights().blocks[layer].ln2.as_ref();
        let normalized: HookPoint = format!("blocks.{layer}.ln2.hook_normalized").parse().unwrap();
        for (reader, hook, ln) in [(Reader::Unembed, HookPoint::UnembedIn, None), (Reader::Mlp(layer), normalized, ln2)] {
            let ask = Ask::nothing().with_capture(hook, Positions::All);
            let (decomposition, run) = model.decompose(&prompts, &Positions::All, reader, ask).unwrap();
            let mut sum = Matrix::zeros(prompts.positions(), model.config().d_model);
            decomposition.components.iter().for_each(|component| sum.add(component));
            for (row, found) in run.captured(hook).iter_rows().zip(sum.iter_rows()) {
                for (i, (&read, &found)) in row.iter().zip(found).enumerate() {
                    let bias = |ln: &NormWeights| ln.b.as_ref().map_or(0.0, |b| b[i]);
                    let read = ln.map_or(read, |ln| read * ln.w[i] + bias(ln));
                    prop_assert!((read - found).abs() <= 1e-4 * read.abs().max(1.0), "{:?}: {} {}", reader, read, found);
                }
            }
        }
    }

    #[test]
    fn a_key_value_cache_does_not_change_what_is_generated(model in models(), prompt in prop::collection::vec(0..64_u32, 1..20), seed: u64) {
        let sampling = Sampling { temperature: 0.8, top_k: Some(20), seed, count: 12, stop: None };
        let draw = |prompt: &[u32], sampling| model.generate(prompt, sampling, &[], &Watch::nobody(), |_| ()).unwrap();
        let whole = draw(&prompt, sampling);
        prop_assert_eq!(&draw(&prompt, sampling), &whole);
        let greedy = Sampling { temperature: 0.0, count: 6, ..sampling };
        let mut tokens = prompt.clone();
        for token in draw(&prompt, greedy) {
            let run = model.run(&Prompts::from_rows([&tokens]), &Ask::nothing().with_logits(Positions::FromEnd(1)), &[]).unwrap();
            let row = run.logits().row(0);
            prop_assert!(row.iter().all(|x| *x <= row[token as usize]));
            tokens.push(token);
        }
    }

    #[test]
    fn what_grows_under_changes_is_what_whole_changed_runs_predict(model in models(), prompt in prop::collection::vec(0..64_u32, 1..20), by in -3.0_f32..3.0) {
        let hook = HookPoint::Block(model.config().n_layers - 1, BlockHook::ResidPre);
        let function = |at: RowAt, row: &mut [f32]| if at.spot.position % 3 == 1 { row.iter_mut().for_each(|x| *x *= by); };
        let hooked = [Hooked { hook, positions: Positions::All, function: Function::Each(Arc::new(function)) }];
        let sampling = Sampling { temperature: 0.0, count: 6, ..Sampling::default() };
        let mut tokens = prompt.clone();
        for token in model.generate(&prompt, sampling, &hooked, &Watch::nobody(), |_| ()).unwrap() {
            let ask = Ask::nothing().with_logits(Positions::FromEnd(1));
            let run = model.run_hooked(&Prompts::from_rows([&tokens]), &ask, &[], &hooked).unwrap();
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
    let captured = |edit| {
        let intervention = Intervention::new(hook, Positions::At(vec![2]), edit);
        model.run(&prompts, &Ask::capture([hook]), &[intervention]).unwrap().captured(hook).clone()
    };
    let base = model.run(&prompts, &Ask::capture([hook]), &[]).unwrap().captured(hook).clone();
    let changed = captured(Edit::Zero);
    assert!(changed.row(2).iter().all(|x| *x == 0.0));
    assert_eq!(changed.row(1), base.row(1));
    assert_eq!(captured(Edit::Scale(2.0)).row(2)[5], base.row(2)[5] * 2.0);
    let along: Vec<f32> = (0..128).map(|i| i as f32).collect();
    let projected = captured(Edit::Project(along.clone().into()));
    let dot: f32 = projected.row(2).iter().zip(&along).map(|(x, a)| x * a).sum();
    assert!(dot.abs() < 1e-2);

    let rows = Arc::new(Matrix::from_rows(&[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]));
    let set = Intervention::new(hook, Positions::At(vec![4, 0]), Edit::Set(Rows::each(&rows, 1..3)))
        .in_columns(Columns::Range(7..9));
    let changed = model.run(&prompts, &Ask::capture([hook]), &[set]).unwrap().captured(hook).clone();
    assert_eq!((&changed.row(4)[7..9], &changed.row(0)[7..9]), (&[3.0, 4.0][..], &[5.0, 6.0][..]));
    assert_eq!((changed.row(1), &changed.row(4)[9..]), (base.row(1), &base.row(4)[9..]));

    let pattern: HookPoint = "blocks.1.attn.hook_pattern".parse().unwrap();
    let ask = Ask::capture([pattern]);
    let base = model.run(&prompts, &ask, &[]).unwrap().captured(pattern).clone();
    let zero = Intervention::new(pattern, Positions::At(vec![3]), Edit::Zero).in_columns(Columns::Head(1));
    let changed = model.run(&prompts, &ask, &[zero]).unwrap().captured(pattern).clone();
    assert!(changed.row(3)[5..10].iter().all(|x| *x == 0.0));
    assert_eq!((&changed.row(3)[..5], &changed.row(3)[10..]), (&base.row(3)[..5], &base.row(3)[10..]));
}

#[test]
fn functions_see_every_row_with_its_place() {
    let model = model("neo-tiny", Processing::default());
    let prompts = Prompts::from_rows([&[0_u32, 5, 9][..], &[3, 7]]);
    let run = |hook: &str, positions: Positions| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = seen.clone();
        let function = Arc::new(move |at: RowAt, row: &mut [f32]| {
            row[0] = at.spot.position as f32 + 10.0;
            record.lock().unwrap().push((at.spot, at.head, row.len()));
        });
        let function = Function::Each(function);
        let hooked = Hooked { hook: hook.parse().unwrap(), positions, function };
        let hook = hooked.hook;
        let run = model.run_hooked(&prompts, &Ask::capture([hook]), &[], &[hooked]).unwrap();
        let mut seen = std::mem::take(&mut *seen.lock().unwrap());
        seen.sort_unstable();
        (run.captured(hook).clone(), seen)
    };
    let spot = |prompt, position| Spot { prompt, position };
    let (changed, seen) = run("blocks.1.mlp.hook_post", Positions::FromEnd(1));
    assert_eq!(seen, [(spot(0, 2), None, 128), (spot(1, 1), None, 128)]);
    assert_eq!((changed.row(2)[0], changed.row(4)[0]), (12.0, 11.0));
    let (changed, seen) = run("blocks.0.attn.hook_pattern", Positions::At(vec![1]));
    let heads = model.config().attention.query_heads;
    assert_eq!(seen.len(), 2 * heads);
    assert_eq!((seen[1], changed.row(1)[3]), ((spot(0, 1), Some(1), 2), 11.0));
}

#[test]
fn a_function_of_many_rows_gets_them_at_once() {
    let model = model("gpt2-tiny", Processing::default());
    let prompts = Prompts::from_rows([&[0_u32, 5, 9][..], &[3, 7]]);
    let hook: HookPoint = "blocks.0.hook_mlp_out".parse().unwrap();
    let calls = Arc::new(Mutex::new(Vec::new()));
    let seen = calls.clone();
    // What depends on the other rows cannot be done row by row.
    let together = Function::Together(Arc::new(move |at: &[RowAt], rows: &mut Matrix| {
        seen.lock().unwrap().push(at.iter().map(|at| at.spot).collect::<Vec<_>>());
        let first = rows.row(0).to_vec();
        (0..rows.rows()).for_each(|i| rows.row_mut(i).copy_from_slice(&first));
    }));
    let halved = Function::Each(Arc::new(|_: RowAt, row: &mut [f32]| row.iter_mut().for_each(|x| *x /= 2.0)));
    let hooked = [(together, Positions::FromEnd(1)), (halved, Positions::All)].map(|(function, positions)| Hooked {
        hook,
        positions,
        function,
    });
    let ask = Ask::capture([hook]);
    let (base, changed) =
        (model.run(&prompts, &ask, &[]).unwrap(), model.run_hooked(&prompts, &ask, &[], &hooked).unwrap());
    let half = |row: usize| base.captured(hook).row(row).iter().map(|x| x / 2.0).collect::<Vec<_>>();
    for (row, from) in [(0, 0), (1, 1), (2, 2), (3, 3), (4, 2)] {
        assert_eq!(changed.captured(hook).row(row), half(from));
    }
    let at = |prompt, position| Spot { prompt, position };
    assert_eq!(*calls.lock().unwrap(), [vec![at(0, 2), at(1, 1)]]);

    let function = Function::Together(Arc::new(|_: &[RowAt], _: &mut Matrix| ()));
    let scores =
        Hooked { hook: "blocks.0.attn.hook_attn_scores".parse().unwrap(), positions: Positions::All, function };
    let error = model.run_hooked(&prompts, &ask, &[], &[scores]).unwrap_err();
    assert!(error.to_string().contains("give a function of each row"), "{error}");
}

#[test]
fn a_session_refuses_what_it_does_not_keep() {
    let model = model("neo-tiny", Processing::default());
    let prompts = Prompts::from_rows([[0_u32, 5, 9, 3, 7]]);
    let hook = |name: &str| name.parse::<HookPoint>().unwrap();
    let session = |ask: Ask, at: &str| model.session(prompts.clone(), &ask, hook(at), Positions::FromEnd(2)).unwrap();
    let case = |name: &str, at: usize, until: usize| {
        let zero = Intervention::new(hook(name), Positions::At(vec![at]), Edit::Zero);
        Case { prompt: 0, until, interventions: vec![zero] }
    };
    let target = Target { prompt: 0, position: 3, token: 3 };
    let deep = session(Ask::nothing().with_predictions([target]), "blocks.1.hook_mlp_out");
    let fails = |case: Case, ask: &Ask, words: &str| {
        let error = deep.resume(&[case], ask).err().unwrap();
        assert!(matches!(error, Error::NotKept { .. }) && error.to_string().contains(words), "{error}");
    };
    let logits = Ask::nothing().with_logits(Positions::FromEnd(1));
    fails(case("blocks.1.hook_attn_out", 3, 3), &logits, "blocks.1.hook_attn_out comes before");
    fails(case("blocks.1.hook_mlp_out", 2, 3), &logits, "position 2 of prompt 0 was not kept");
    let early = Ask::nothing().with_capture(hook("hook_embed"), Positions::FromEnd(1));
    fails(case("blocks.1.hook_mlp_out", 3, 3), &early, "hook_embed comes before");
    let whole = Ask::nothing().with_logits(Positions::All);
    fails(case("blocks.1.hook_mlp_out", 3, 3), &whole, "position 0 of case 0 comes before its first change");
    assert!(matches!(deep.advance(hook("blocks.0.hook_attn_out")), Err(Error::NotKept { .. })));

    let shallow = session(Ask::nothing(), "blocks.0.hook_mlp_out");
    let error = shallow.resume(&[case("blocks.0.hook_mlp_out", 3, 3)], &logits).err().unwrap();
    assert!(error.to_string().contains("did not reach the keys of block 1"), "{error}");
}

#[test]
fn a_stopped_run_ends_between_two_stages() {
    let model = model("neo-tiny", Processing::default());
    let prompts = Prompts::from_rows([[0_u32, 5, 9, 3, 7]]);
    // Stops while block 0 is computed: block 1 is not begun.
    let (stop, begun) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
    let watch = Watch::new(Arc::clone(&stop), |_| ());
    let (set, count) = (stop, begun.clone());
    let hooked = ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre"].map(|name| Hooked {
        hook: name.parse().unwrap(),
        positions: Positions::FromEnd(1),
        function: Function::Each(Arc::new({
            let (set, count) = (set.clone(), count.clone());
            move |_: RowAt, _: &mut [f32]| {
                set.store(true, Ordering::Relaxed);
                count.fetch_add(1, Ordering::Relaxed);
            }
        })),
    });
    let error = model.run_hooked(&prompts, &Ask::nothing().with_losses().watched(&watch), &[], &hooked).unwrap_err();
    assert!(matches!(error, Error::Stopped));
    assert_eq!(begun.load(Ordering::Relaxed), 1);
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

/// What is wrong in a run or a resumed run, by the words that say so.
#[test]
fn a_request_for_what_does_not_exist_is_an_error_in_a_run_and_in_a_session() {
    let model = model("neo-tiny", Processing::default());
    let prompts = Prompts::from_rows([&[0_u32, 5, 9][..], &[3, 7]]);
    let hook = |name: &str| name.parse::<HookPoint>().unwrap();
    let (z, mid, scores) =
        (hook("blocks.1.attn.hook_z"), hook("blocks.1.hook_resid_mid"), hook("blocks.1.attn.hook_attn_scores"));
    let session =
        model.session(prompts.clone(), &Ask::nothing().with_losses(), hook("hook_embed"), Positions::All).unwrap();

    let target = |prompt, position, token| Ask::nothing().with_predictions([Target { prompt, position, token }]);
    let capture = |hook, positions| Ask::nothing().with_capture(hook, positions);
    for (ask, words) in [
        (target(2, 0, 0), "no prompt 2: there are 2"),
        (target(1, 2, 0), "prompt 1 has 2 positions, so there is no position 2"),
        (target(0, 0, 128), "token 128 is outside the vocabulary of 128"),
        (capture(mid, Positions::At(vec![0, 2])), "no position 2"),
        (capture(mid, Positions::FromEnd(3)), "no position -3"),
        (capture(mid, Positions::FromEnd(0)), "no position -0"),
        (capture(mid, Positions::Each(vec![vec![]; 3])), "listed for 3 prompts, and there are 2"),
        (capture(hook("blocks.2.hook_resid_mid"), Positions::All), "it has 2 blocks"),
    ] {
        let run = model.run(&prompts, &ask, &[]).unwrap_err();
        assert!(run.to_string().contains(words), "{run}");
        let cases = [(0, 2), (1, 1)].map(|(prompt, until)| Case { prompt, until, interventions: Vec::new() });
        let resumed = session.resume(&cases, &ask).unwrap_err();
        assert!(resumed.to_string().contains(words), "{resumed}");
    }

    let row = |width: usize| Edit::Add(vec![1.0; width].into());
    let each = |n: usize| Edit::Set(Rows::each(&Arc::new(Matrix::zeros(n, 32)), 0..n));
    let at = |hook, positions: &[usize], edit| Intervention::new(hook, Positions::At(positions.to_vec()), edit);
    for (change, words) in [
        (at(mid, &[2], Edit::Zero), "prompt 1 has 2 positions, so there is no position 2"),
        (Intervention::new(mid, Positions::Each(vec![vec![0]]), Edit::Zero), "listed for 1 prompts, and there are 2"),
        (at(hook("blocks.2.hook_resid_mid"), &[0], Edit::Zero), "it has 2 blocks"),
        (at(HookPoint::UnembedOut, &[0], Edit::Zero), "the end of the pass"),
        (at(mid, &[0], row(31)), "a row of 31 numbers where there are 32"),
        (at(z, &[0], row(32)).in_columns(Columns::Head(0)), "a row of 32 numbers where there are 8"),
        (at(z, &[0], Edit::Zero).in_columns(Columns::Head(4)), "no head 4; it has 4"),
        (at(mid, &[0], Edit::Zero).in_columns(Columns::Head(0)), "its rows are not of heads"),
        (at(mid, &[0], Edit::Zero).in_columns(Columns::Range(30..33)), "no columns 30..33; it has 32"),
        (at(mid, &[1, 0], each(5)), "5 rows for "),
        (at(scores, &[1], row(3)), "rows differ in length"),
        (at(scores, &[1], Edit::Zero).in_columns(Columns::Range(0..1)), "rows differ in length"),
        (at(mid, &[1], Edit::Scale(f32::NAN)), "not finite"),
        (at(mid, &[1], Edit::Set(vec![f32::INFINITY; 32].into())), "not finite"),
    ] {
        let run = model.run(&prompts, &Ask::nothing().with_losses(), std::slice::from_ref(&change)).unwrap_err();
        assert!(run.to_string().contains(words), "{run}");
        let case = Case { prompt: 1, until: 1, interventions: vec![change.clone()] };
        let resumed = session.resume(&[case], &Ask::nothing().with_logits(Positions::All)).unwrap_err();
        assert!(resumed.to_string().contains(words), "{resumed}");
    }
    for (prompt, until, words) in [(2, 0, "no prompt 2"), (1, 2, "no position 2")] {
        let case = Case { prompt, until, interventions: Vec::new() };
        let error = session.resume(&[case], &Ask::nothing().with_logits(Positions::All)).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn a_heads_own_input_changes_that_head_alone() {
    for name in common::MODELS {
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
            let other = Edit::Set(base.captured(pre).row(1).into());
            let one = Intervention::new(input, Positions::At(vec![3]), other.clone()).in_columns(Columns::Head(1));
            let changed = model.run(&prompts, &ask, &[one]).unwrap();
            let all = Intervention::new(pre, Positions::At(vec![3]), other);
            let wanted = model.run(&prompts, &ask, &[all]).unwrap();
            let head = |run: &Run, h: usize| run.captured(q).row(3)[h * dh..(h + 1) * dh].to_vec();
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
