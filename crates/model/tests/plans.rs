//! A run computes nothing that it is not asked for; what it is asked for has the bits of a run that computes everything.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use common::{by_key, hooks, intervention, model, models, prompts};
use directrix_corpus::Prompts;
use directrix_model::{Ask, Case, Error, HookPoint, Intervention, Model, Positions, Processing, Run, Target};
use proptest::prelude::*;

/// Some positions of each prompt, of some perhaps none: those whose bit is set in both numbers.
fn some_positions(prompts: &Prompts, [a, b]: [u32; 2]) -> Vec<Vec<usize>> {
    let of = |(i, prompt): (usize, &[u32])| {
        (0..prompt.len()).filter(|at| (a & b.rotate_left(i as u32)) >> at & 1 == 1).collect()
    };
    prompts.iter().enumerate().map(of).collect()
}

fn count(positions: &[Vec<usize>]) -> usize {
    positions.iter().map(Vec::len).sum()
}

/// A run that leaves nothing out.
fn everything(model: &Model, prompts: &Prompts, interventions: &[Intervention]) -> Run {
    let ask = Ask::capture(HookPoint::all(model.config())).with_losses();
    model.run(prompts, &ask, interventions).unwrap()
}

/// Hook points, each with its positions in each prompt.
type Captures = BTreeMap<HookPoint, Vec<Vec<usize>>>;

fn captured(model: &Model, prompts: &Prompts, picks: Vec<(usize, [u32; 2])>) -> Captures {
    let all = HookPoint::all(model.config());
    let of = |(hook, at)| (all[hook % all.len()], some_positions(prompts, at));
    picks.into_iter().map(of).filter(|(_, at)| count(at) > 0).collect()
}

fn asked(ask: Ask, captures: &Captures) -> Ask {
    captures.iter().fold(ask, |ask, (hook, at)| ask.with_capture(*hook, Positions::Each(at.clone())))
}

/// Whether two rows of a position are the same. Of scores and patterns, whose rows have for each head as many columns as the
/// longest prompt of their run, a position has those up to its own.
fn agrees(hook: HookPoint, found: &[f32], wanted: &[f32], heads: usize, position: usize) -> bool {
    let own = |row: &[f32]| -> Vec<f32> {
        row.chunks_exact(row.len() / heads).flat_map(|head| &head[..=position]).copied().collect()
    };
    if by_key(hook) { own(found) == own(wanted) } else { found == wanted }
}

/// Whether what `run` captured is what there is in `whole`.
fn all_agree(
    model: &Model,
    prompts: &Prompts,
    captures: &Captures,
    run: &Run,
    whole: &Run,
) -> Result<(), TestCaseError> {
    let heads = model.config().attention.query_heads;
    for (&hook, positions) in captures {
        let spots = positions.iter().zip(prompts.offsets());
        let spots = spots.flat_map(|(at, first)| at.iter().map(move |position| (first + position, *position)));
        for (row, (of_whole, position)) in spots.enumerate() {
            let (found, wanted) = (run.captured(hook).row(row), whole.captured(hook).row(of_whole));
            prop_assert!(agrees(hook, found, wanted, heads, position), "{} at row {}", hook, of_whole);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_run_that_is_asked_for_little_gives_the_bits_of_one_that_computes_everything(
        model in models(),
        prompts in prompts(),
        captures in prop::collection::vec((any::<usize>(), any::<[u32; 2]>()), 0..4),
        edits in prop::collection::vec((any::<usize>(), any::<[u32; 2]>(), any::<[usize; 2]>()), 0..3),
        target: Option<[usize; 2]>,
    ) {
        let editable = hooks(&model);
        let captures = captured(&model, &prompts, captures);
        let edits: Vec<Intervention> = edits.into_iter().map(|(hook, at, kind)| {
            let at = some_positions(&prompts, at);
            intervention(&model, editable[hook % editable.len()], Positions::Each(at.clone()), count(&at), kind)
        }).collect();
        let target = target.map(|[prompt, position]| {
            let prompt = prompt % prompts.len();
            let position = position % (prompts.get(prompt).len() - 1);
            Target { prompt, position, token: prompts.get(prompt)[position + 1] }
        });
        let ask = asked(Ask::nothing().with_predictions(target), &captures);
        let (run, whole) = (model.run(&prompts, &ask, &edits).unwrap(), everything(&model, &prompts, &edits));
        all_agree(&model, &prompts, &captures, &run, &whole)?;
        if let Some(Target { prompt, position, .. }) = target {
            let loss = whole.losses()[prompts.offsets()[prompt] - prompt + position];
            prop_assert_eq!(-run.predictions()[0].log_prob as f32, loss);
        }
    }

    #[test]
    fn a_session_that_is_asked_for_little_and_keeps_little_goes_on_with_the_bits_of_a_whole_run(
        model in models(),
        prompts in prompts(),
        captures in prop::collection::vec((any::<usize>(), any::<[u32; 2]>()), 0..3),
        keep: (usize, [u32; 2]),
        advance: Option<usize>,
        cases in prop::collection::vec((any::<[usize; 2]>(), prop::collection::vec(any::<[usize; 4]>(), 0..3)), 1..5),
        wanted in prop::collection::vec(any::<usize>(), 1..3),
    ) {
        let editable = hooks(&model);
        let (mut keep, kept) = (editable[keep.0 % editable.len()], some_positions(&prompts, keep.1));
        let captures = captured(&model, &prompts, captures);
        let ask = asked(Ask::nothing(), &captures);
        let whole = everything(&model, &prompts, &[]);
        let mut session = model.session(prompts.clone(), &ask, keep, Positions::Each(kept.clone())).unwrap();
        all_agree(&model, &prompts, &captures, session.run(), &whole)?;
        // Where it can go on from. What begins inside a prompt goes no deeper than the session's own run.
        let shallow = |hook: Option<&HookPoint>| hook > captures.keys().last();
        let kept: Vec<(usize, RangeInclusive<usize>)> = kept.iter().enumerate()
            .filter_map(|(prompt, at)| Some((prompt, *at.first()?..=*at.last()?))).collect();
        prop_assume!(!kept.is_empty());
        if let Some(pick) = advance {
            let deeper: Vec<HookPoint> = editable.iter().copied().filter(|hook| *hook >= keep).collect();
            keep = deeper[pick % deeper.len()];
            session = match session.advance(keep) {
                Ok(session) => session,
                Err(Error::NotKept { .. }) if shallow(Some(&keep)) && kept.iter().any(|(_, at)| *at.start() > 0) => return Ok(()),
                Err(error) => panic!("{error}"),
            };
        }
        let deeper: Vec<HookPoint> = editable.iter().copied().filter(|hook| *hook >= keep).collect();
        let mut first = Vec::new();
        let cases: Vec<Case> = cases.into_iter().map(|([pick, until], edits)| {
            let (prompt, kept) = &kept[pick % kept.len()];
            let (from, len) = (*kept.start(), kept.end() - kept.start() + 1);
            let until = from + until % len;
            let mut begin = until;
            let interventions = edits.into_iter().map(|[hook, position, kind, columns]| {
                let at = from + position % len;
                begin = begin.min(at);
                intervention(&model, deeper[hook % deeper.len()], Positions::At(vec![at]), 1, [kind, columns])
            }).collect();
            first.push(begin);
            Case { prompt: *prompt, until, interventions }
        }).collect();
        let wanted: BTreeSet<HookPoint> = wanted.into_iter().map(|hook| deeper[hook % deeper.len()]).collect();
        let at: Vec<Vec<usize>> = cases.iter().zip(&first).map(|(case, first)| (*first..=case.until).collect()).collect();
        let ask = wanted.iter().fold(Ask::nothing(), |ask, hook| ask.with_capture(*hook, Positions::Each(at.clone())));
        let run = match session.resume(&cases, &ask) {
            Ok(run) => run,
            Err(Error::NotKept { .. }) if shallow(wanted.last()) && first.iter().any(|first| *first > 0) => return Ok(()),
            Err(error) => panic!("{error}"),
        };
        let (mut row, heads) = (0, model.config().attention.query_heads);
        for (case, positions) in cases.iter().zip(at) {
            let whole = everything(&model, &Prompts::from_rows([prompts.get(case.prompt)]), &case.interventions);
            for position in positions {
                for hook in &wanted {
                    prop_assert!(agrees(*hook, run.captured(*hook).row(row), whole.captured(*hook).row(position), heads, position), "{hook} {position} {case:?}");
                }
                row += 1;
            }
        }
    }
}

/// The keys that the later block needs are of all positions, though nothing else is wanted of most.
#[test]
fn what_a_session_keeps_is_right_when_its_own_run_ends_before_it() {
    for (name, early, kept) in [
        ("neo-tiny", "blocks.0.hook_resid_pre", "blocks.1.hook_mlp_out"),
        ("gpt2-tiny", "blocks.0.hook_resid_pre", "blocks.2.hook_resid_pre"),
        ("neox-tiny", "hook_embed", "blocks.1.hook_resid_post"),
    ] {
        let model = model(name, Processing::default());
        let (early, kept) = (early.parse::<HookPoint>().unwrap(), kept.parse::<HookPoint>().unwrap());
        let prompts = Prompts::from_rows([&[0_u32, 5, 9, 3, 7][..], &[0, 8, 2, 11]]);
        let early = Ask::nothing().with_capture(early, Positions::FromEnd(1));
        let session = model.session(prompts.clone(), &early, kept, Positions::FromEnd(1)).unwrap();
        let case = |prompt: usize| Case { prompt, until: prompts.get(prompt).len() - 1, interventions: Vec::new() };
        let ask = Ask::nothing().with_capture(kept, Positions::FromEnd(1));
        let resumed = session.resume(&[case(0), case(1)], &ask).unwrap();
        assert_eq!(resumed.captured(kept), model.run(&prompts, &ask, &[]).unwrap().captured(kept), "{name}");
    }
}
