//! What two directions are to a third, where it is known.

mod common;

use std::sync::Arc;

use common::planted::*;
use directrix_circuits::edges::{Between, Conjunction, Conjunctions, Sample, Verdict};
use directrix_circuits::{Chosen, Claim};
use directrix_corpus::{Prompts, Watch};
use directrix_model::{Ask, Function, Hooked, Positions, RowAt};

fn upstream(between: &Between, second: usize) -> Vec<usize> {
    let found = between.upstream(second, Sample::default(), &Conjunctions::default(), &Watch::nobody()).unwrap();
    found.into_iter().take(8).map(|upstream| upstream.direction).collect()
}

fn conjunctions(between: &Between, second: usize, firsts: &[usize]) -> Vec<Conjunction> {
    between.conjunctions(second, firsts, Chosen::Given, &Conjunctions::default(), &Watch::nobody()).unwrap()
}

fn ascending(mut pair: [usize; 2]) -> [usize; 2] {
    pair.sort_unstable();
    pair
}

#[test]
fn planted_pairs_are_called_what_they_are_and_no_other_pair_is() {
    for seed in 0..20 {
        let (wired, planted) = wired(seed, with_sum);
        let (between, planted) = (wired.between(), planted.unwrap());
        for (second, pair, expected) in [
            (AND, planted.and, Verdict::And),
            (OR, planted.or, Verdict::Or),
            (SUM, planted.sum.unwrap(), Verdict::Additive),
        ] {
            let firsts = upstream(&between, second);
            assert_eq!(ascending([firsts[0], firsts[1]]), ascending(pair), "seed {seed}, direction {second}");
            let rows = conjunctions(&between, second, &firsts);
            assert!(rows.len() > 9, "seed {seed}: {} pairs", rows.len());
            for row in &rows {
                let is_planted = [row.first, row.other] == ascending(pair);
                assert_eq!(row.verdict, if is_planted { expected } else { Verdict::Neither }, "seed {seed}: {row:?}");
            }
            let own = rows.iter().find(|row| [row.first, row.other] == ascending(pair)).unwrap();
            let about = match expected {
                Verdict::And => -1.0,
                Verdict::Or => 1.0,
                _ => 0.0,
            };
            assert!((own.interaction.mean() - about).abs() < 0.15, "seed {seed}: {own:?}");
            assert!(own.lost_both > 0.85, "seed {seed}: {own:?}");
        }
    }
}

#[test]
fn a_joint_set_is_what_the_direction_needs_and_no_more() {
    for seed in 0..10 {
        let (wired, planted) = wired(seed, with_sum);
        let (between, planted) = (wired.between(), planted.unwrap());
        let set = |second: usize| {
            let firsts = upstream(&between, second);
            between.joint_set(second, &firsts, &Conjunctions::default(), &Watch::nobody()).unwrap()
        };
        // Either of two that are needed is enough to take it; of two each of which is enough, both must go.
        let and = set(AND);
        assert_eq!(and.len(), 1, "seed {seed}: {and:?}");
        assert!(planted.and.contains(&and[0].added) && and[0].lost.mean() > 0.95, "seed {seed}: {and:?}");
        for (second, pair) in [(OR, planted.or), (SUM, planted.sum.unwrap())] {
            let steps = set(second);
            assert_eq!(steps.len(), 2, "seed {seed}: {steps:?}");
            assert_eq!(ascending([steps[0].added, steps[1].added]), ascending(pair), "seed {seed}");
            assert!(steps[0].lost.mean() < 0.8 && steps[1].lost.mean() > 0.85, "seed {seed}: {steps:?}");
            assert!(steps[1].lost.is_beyond_controls(), "seed {seed}: {steps:?}");
        }
    }
}

#[test]
fn means_are_over_every_position_at_which_all_three_fire_each_run_alone() {
    let (wired, planted) = wired(3, with_sum);
    let (between, planted) = (wired.between(), planted.unwrap());
    let [first, second] = &wired.saes;
    let how = Conjunctions { positions: usize::MAX, ..Conjunctions::default() };
    for (downstream, pair) in [(AND, planted.and), (OR, planted.or), (SUM, planted.sum.unwrap())] {
        let row = between.conjunctions(downstream, &pair, Chosen::Given, &how, &Watch::nobody()).unwrap().remove(0);
        let Conjunction { first: one, other, .. } = row;
        let hooks = [first, second].map(|sae| sae.site().reads.hook);
        let least = how.share_of_maximum * wired.index.sae(1).maxima()[downstream];
        let (mut n, mut sums) = (0, [0.0; 3]);
        for number in (1..wired.index.prompts()).step_by(2) {
            let prompts = Prompts::from_rows([wired.index.prompt(number).unwrap()]);
            let run = wired.model.run(&prompts, &Ask::capture(hooks), &[]).unwrap();
            let [of_first, of_second] =
                [(first, hooks[0]), (second, hooks[1])].map(|(sae, hook)| sae.encode(run.captured(hook)).unwrap());
            // The last position predicts nothing and is not counted.
            for position in 0..prompts.positions() - 1 {
                let before = of_second.get(position, downstream as u32);
                let fire = [one, other].map(|direction| of_first.get(position, direction as u32));
                if before < least || fire.contains(&0.0) {
                    continue;
                }
                n += 1;
                for (sum, which) in sums.iter_mut().zip([&[0][..], &[1], &[0, 1]]) {
                    let taken: Vec<(usize, f32)> = which.iter().map(|i| ([one, other][*i], fire[*i])).collect();
                    let w_dec = first.w_dec().clone();
                    let ablate = move |_: RowAt, row: &mut [f32]| {
                        for (direction, activation) in &taken {
                            row.iter_mut().zip(w_dec.row(*direction)).for_each(|(x, w)| *x -= activation * w);
                        }
                    };
                    let hooked = Hooked {
                        hook: hooks[0],
                        positions: Positions::At(vec![position]),
                        function: Function::Each(Arc::new(ablate)),
                    };
                    let run = wired.model.run_hooked(&prompts, &Ask::capture([hooks[1]]), &[], &[hooked]).unwrap();
                    let after = second.encode(run.captured(hooks[1])).unwrap().get(position, downstream as u32);
                    *sum += f64::from((before - after) / before);
                }
            }
        }
        assert!(n > 10);
        assert_eq!(row.interaction.estimate.n, n);
        for (found, sum) in [row.lost_first, row.lost_other, row.lost_both].into_iter().zip(sums) {
            assert!((found - sum / n as f64).abs() < 1e-4, "{found} and {}", sum / n as f64);
        }
        assert!((row.interaction.mean() - (row.lost_both - row.lost_first - row.lost_other)).abs() < 1e-9);
    }
}

#[test]
fn pairs_of_a_list_are_one_list_of_tests_and_the_same_every_time() {
    let (wired, _) = wired(5, with_sum);
    let between = wired.between();
    let firsts = upstream(&between, OR);
    let rows = conjunctions(&between, OR, &firsts);
    assert_eq!(rows, conjunctions(&between, OR, &firsts));
    let again =
        Claim::list(rows.iter().map(|row| (row.interaction.about, row.interaction.estimate, row.interaction.controls)));
    assert!(rows.iter().zip(again).all(|(row, claim)| row.interaction.q == claim.q));
    assert!(between.conjunctions(OR, &[FEATURES], Chosen::Given, &Conjunctions::default(), &Watch::nobody()).is_err());
    assert!(
        between.conjunctions(FEATURES, &firsts, Chosen::Given, &Conjunctions::default(), &Watch::nobody()).is_err()
    );
}
