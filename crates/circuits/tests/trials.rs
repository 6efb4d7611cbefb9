//! The planner against what it stands for: every changed prompt run whole, its site's row exchanged for one computed here.

use directrix_circuits::*;
use directrix_corpus::{Prompts, Watch};
use directrix_kernels::Matrix;
use directrix_model::{
    Ask, BlockHook, Edit, Folder, HookPoint, Intervention, Model, Norm, Positions, Processing, Target,
};
use directrix_sae::{Architecture, End, Normalisation, Parameters, Sae, Site};
use proptest::prelude::*;

struct Fixture {
    model: Model,
    saes: Vec<Sae>,
}

fn fixture(name: &str) -> Fixture {
    let root = format!("{}/../model/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    let model = Model::load(&Folder::open(&root).unwrap(), Processing::default()).unwrap();
    let mut saes: Vec<Sae> = (0..model.config().n_layers)
        .filter_map(|layer| Folder::open(format!("{root}/sae-l{layer}")).ok())
        .map(|folder| Sae::load(&folder).unwrap().fit(model.config()).unwrap())
        .collect();
    saes.sort_by_key(|sae| sae.site().reads.hook);
    if saes.is_empty() {
        saes.extend((0..model.config().n_layers).map(|layer| on_neurons(&model, layer)));
    }
    // One that normalises what it reads, and one that passes some of it on.
    let first = &saes[0];
    let (d, same) = (first.d_in(), |parameters| Sae::new("changed".into(), first.site().clone(), parameters).unwrap());
    let skip = (0..d * d).map(|i| ((i * 7 % 13) as f32 - 6.0) * 0.01).collect();
    let normalised = Parameters { normalisation: Normalisation::LayerNorm, ..first.parameters().clone() };
    let skipping = Parameters { w_skip: Some(Matrix::new(skip, d, d)), ..first.parameters().clone() };
    let changed = [same(normalised), same(skipping)];
    saes.extend(changed);
    Fixture { model, saes }
}

/// A random SAE on the neurons of a block.
fn on_neurons(model: &Model, layer: usize) -> Sae {
    let (hook, width) = (HookPoint::Block(layer, BlockHook::MlpPost), model.config().mlp.d_mlp);
    let end = || End { hook, head: None, width };
    let numbers = |seed: usize, n: usize| -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729 + layer) % 1009) as f32 / 1009.0 - 0.5).collect()
    };
    let parameters = Parameters {
        architecture: Architecture::Relu,
        encoder: Matrix::new(numbers(1, 40 * width), 40, width),
        w_dec: Matrix::new(numbers(2, 40 * width), 40, width),
        b_enc: numbers(3, 40),
        b_dec: numbers(4, width),
        subtract_b_dec: true,
        normalisation: Normalisation::None,
        w_skip: None,
    };
    Sae::new(format!("random-{layer}"), Site { reads: end(), writes: end() }, parameters).unwrap()
}

/// A row of the site with a change made, by dense arithmetic in double precision.
fn changed(sae: &Sae, values: &[f32], change: &Change) -> Vec<f32> {
    let columns = sae.site().writes.columns();
    let acts = sae.encode(&Matrix::from_rows(&[values])).unwrap();
    let written = |left_out: &dyn Fn(u32) -> bool| {
        let mut sum = vec![0.0_f64; columns.len()];
        for (&d, &act) in acts.at(0).0.iter().zip(acts.at(0).1).filter(|(d, _)| !left_out(**d)) {
            sum.iter_mut().zip(sae.w_dec().row(d as usize)).for_each(|(s, &w)| *s += act as f64 * w as f64);
        }
        sum
    };
    let (n, p) = (values.len() as f64, sae.parameters());
    let (mean, size) = if p.normalisation == Normalisation::None {
        (0.0, 1.0)
    } else {
        let mean = values.iter().map(|x| *x as f64).sum::<f64>() / n;
        (mean, (values.iter().map(|x| (*x as f64 - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt())
    };
    let skipped = |i: usize| {
        let row = p.w_skip.as_ref().map(|w| w.row(i));
        row.map_or(0.0, |row| row.iter().zip(values).map(|(w, x)| *w as f64 * *x as f64).sum::<f64>())
    };
    let mut row = values.to_vec();
    for (i, x) in row[columns.clone()].iter_mut().enumerate() {
        *x = match change {
            Change::None => *x,
            Change::Ablate(set) => (*x as f64 - size * written(&|d| !set.contains(&d))[i]) as f32,
            Change::Reconstruct { without } => {
                let sum = written(&|d| without.contains(&d))[i] + sae.b_dec()[i] as f64;
                (size * sum + mean + skipped(i)) as f32
            }
            Change::Set { directions, to } => {
                let of = |d: &u32| (*to - acts.get(0, *d)) as f64 * sae.w_dec().row(*d as usize)[i] as f64;
                (*x as f64 + size * each_once(directions).iter().map(of).sum::<f64>()) as f32
            }
            Change::Scale { directions, by } => {
                let of = |d: &u32| (*by as f64 - 1.0) * acts.get(0, *d) as f64 * sae.w_dec().row(*d as usize)[i] as f64;
                (*x as f64 + size * each_once(directions).iter().map(of).sum::<f64>()) as f32
            }
            Change::ReconstructSet { directions, to } => {
                let of = |d: &u32| *to as f64 * sae.w_dec().row(*d as usize)[i] as f64;
                let set: f64 = each_once(directions).iter().map(of).sum();
                let sum = written(&|d| directions.contains(&d))[i] + set + sae.b_dec()[i] as f64;
                (size * sum + mean + skipped(i)) as f32
            }
            Change::Keep { rest, .. } => {
                // Of the one row that spans the subspace here.
                let along = sae.w_dec().row(0);
                let dot = |of: &dyn Fn(usize) -> f64| (0..along.len()).map(|j| of(j) * along[j] as f64).sum::<f64>();
                let rest = |j: usize| rest.as_ref().map_or(0.0, |rest| rest[j] as f64);
                let share = dot(&|j| values[columns.start + j] as f64 - rest(j)) / dot(&|j| along[j] as f64);
                (rest(i) + share * along[i] as f64) as f32
            }
            Change::AblateRandom { .. } | Change::AblateTurned { .. } => unreachable!("no trial here is a control"),
            Change::Zero => 0.0,
            Change::Replace(by) => by[i],
        };
    }
    row
}

fn each_once(directions: &[u32]) -> Vec<u32> {
    let mut directions = directions.to_vec();
    directions.sort_unstable();
    directions.dedup();
    directions
}

/// What a trial looks at, in a whole run of its prompt with `interventions`.
fn look(model: &Model, prompts: &Prompts, trial: &Trial, interventions: &[Intervention]) -> Vec<f64> {
    let tokens = prompts.get(trial.prompt);
    let prompt = Prompts::from_rows([tokens]);
    let run = |ask: Ask| model.run(&prompt, &ask, interventions).unwrap();
    match trial.look {
        Look::Prediction { position, token } => {
            let target = Target { prompt: 0, position, token };
            let found = run(Ask::nothing().with_predictions([target])).predictions()[0];
            vec![found.log_prob, found.logit as f64]
        }
        Look::MeanLoss => {
            let run = run(Ask::nothing().with_losses());
            vec![run.losses().iter().map(|l| *l as f64).sum::<f64>() / (tokens.len() - 1) as f64]
        }
        Look::Activation { sae, direction, position } => {
            let run = run(Ask::capture([sae.site().reads.hook]));
            let acts = sae.encode(run.captured(sae.site().reads.hook)).unwrap();
            vec![acts.get(position, direction) as f64]
        }
        Look::Activations { sae } => {
            // Of every direction at every position, as one row.
            let run = run(Ask::capture([sae.site().reads.hook]));
            let acts = sae.encode(run.captured(sae.site().reads.hook)).unwrap();
            let dense = |position| (0..sae.directions() as u32).map(move |d| (position, d));
            (0..tokens.len()).flat_map(dense).map(|(position, d)| acts.get(position, d) as f64).collect()
        }
        Look::LogProbs { .. } => unreachable!("no trial here looks at all tokens"),
    }
}

/// Of the activations of every direction at every position, before and after, the sums that a trial sees.
fn sums(sae: &Sae, first: usize, end: usize, [before, after]: [Vec<f64>; 2]) -> [Vec<f64>; 2] {
    let n = sae.directions();
    let fires = |direction: &usize| (first..end).any(|position| before[position * n + direction] > 0.0);
    let sum = |of: &[f64], direction: usize| -> f64 {
        let there = (first..end).map(|position| position * n + direction).filter(|at| before[*at] > 0.0);
        there.map(|at| of[at]).sum()
    };
    [&before, &after].map(|of| (0..n).filter(fires).map(|direction| sum(of, direction)).collect())
}

/// `[before, after]`, each by a run of the whole prompt.
fn naive(f: &Fixture, prompts: &Prompts, trial: &Trial) -> [Vec<f64>; 2] {
    let hook = trial.sae.site().reads.hook;
    let run = f.model.run(&Prompts::from_rows([prompts.get(trial.prompt)]), &Ask::capture([hook]), &[]).unwrap();
    let exchange = |position: usize| {
        let row = changed(trial.sae, run.captured(hook).row(position), &trial.change);
        Intervention::new(hook, Positions::At(vec![position]), Edit::Set(row.into()))
    };
    let interventions: Vec<Intervention> = trial.positions.clone().map(exchange).collect();
    let seen = [look(&f.model, prompts, trial, &[]), look(&f.model, prompts, trial, &interventions)];
    let Look::Activations { sae } = trial.look else { return seen };
    let is_changed = |position: &usize| {
        let row = run.captured(hook).row(*position);
        changed(trial.sae, row, &trial.change)[..] != row[trial.sae.site().writes.columns()]
    };
    let first = trial.positions.clone().find(is_changed).unwrap_or(trial.positions.start);
    sums(sae, first, trial.positions.end, seen)
}

fn numbers(seen: &Seen) -> Vec<f64> {
    match seen {
        Seen::Prediction(p) => vec![p.log_prob, p.logit as f64],
        Seen::MeanLoss(loss) => vec![*loss],
        Seen::Activation(activation) => vec![*activation as f64],
        Seen::Activations(sums) => sums.iter().map(|(_, sum)| *sum).collect(),
        Seen::LogProbs(all) => all.clone(),
    }
}

/// Choices from which a trial is made: which SAE, prompt, position, change, look, directions.
type Choices = (usize, usize, usize, usize, usize, Vec<usize>);

fn trial<'a>(f: &'a Fixture, prompts: &Prompts, (sae, prompt, at, change, look, directions): &Choices) -> Trial<'a> {
    let (sae, prompt) = (&f.saes[sae % f.saes.len()], prompt % prompts.len());
    let tokens = prompts.get(prompt);
    // Directions that fire there, so that ablating them does something, and one that may not.
    let position = at % (tokens.len() - 1);
    let run = f.model.run(&Prompts::from_rows([tokens]), &Ask::capture([sae.site().reads.hook]), &[]).unwrap();
    let active = sae.encode(run.captured(sae.site().reads.hook)).unwrap();
    let active = active.at(position).0.to_vec();
    let mut set: Vec<u32> = vec![(directions[0] % sae.directions()) as u32];
    set.extend(directions[1..].iter().filter(|_| !active.is_empty()).map(|d| active[d % active.len()]));
    let first_row = || Subspace::span(&sae.w_dec().gather([0].into_iter())).into();
    let change = match change % 11 {
        5 => Change::Set { directions: set, to: 0.75 },
        6 => Change::ReconstructSet { directions: set, to: 0.75 },
        7 => Change::ReconstructSet { directions: set, to: 0.0 },
        8 => Change::Keep { subspace: first_row(), rest: None },
        9 => Change::Keep { subspace: first_row(), rest: Some(vec![0.25; sae.d_out()].into()) },
        10 => Change::Scale { directions: set, by: -1.5 },
        0 => Change::None,
        1 => Change::Reconstruct { without: set },
        2 => Change::Zero,
        3 => Change::Replace(vec![0.25; sae.d_in()].into()),
        _ => Change::Ablate(set),
    };
    let last = &f.saes[f.saes.len() - 1];
    match look % 5 {
        0 => Trial::everywhere(sae, prompts, prompt, change).unwrap(),
        1 if sae.site().reads.hook < last.site().reads.hook => {
            let direction = (directions[0] % last.directions()) as u32;
            let look = Look::Activation { sae: last, direction, position };
            Trial { prompt, sae, positions: position..position + 1, change, look }
        }
        3 if sae.site().reads.hook < last.site().reads.hook => {
            Trial { prompt, sae, positions: position..tokens.len(), change, look: Look::Activations { sae: last } }
        }
        // A change before the position that predicts.
        2 => {
            let look = Look::Prediction { position: tokens.len() - 2, token: tokens[tokens.len() - 1] };
            Trial { prompt, sae, positions: position..position + 1, change, look }
        }
        _ => Trial::at(sae, prompts, prompt, position, change).unwrap(),
    }
}

fn choices() -> impl Strategy<Value = Vec<Choices>> {
    let one = (0..9_usize, 0..9_usize, 0..99_usize, 0..11_usize, 0..5_usize, prop::collection::vec(0..999_usize, 1..4));
    prop::collection::vec(one, 1..12)
}

fn rows(vocabulary: u32) -> impl Strategy<Value = Vec<Vec<u32>>> {
    prop::collection::vec(prop::collection::vec(0..vocabulary, 2..14), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn trials_see_what_whole_runs_with_the_changed_rows_see(
        name in prop::sample::select(vec!["neo-tiny", "gpt2-tiny", "neox-tiny", "llama-tiny", "gemma2-tiny", "gemma3-tiny"]),
        rows in rows(50),
        choices in choices(),
    ) {
        let f = fixture(name);
        let prompts = Prompts::from_rows(rows);
        let trials: Vec<Trial> = choices.iter().map(|choices| trial(&f, &prompts, choices)).collect();
        let together = effects(&f.model, &prompts, &trials, &Watch::nobody()).unwrap();
        for (trial, effect) in trials.iter().zip(&together) {
            let [before, after] = naive(&f, &prompts, trial);
            for (expected, seen) in [(before, &effect.before), (after, &effect.after)] {
                for (e, s) in expected.iter().zip(numbers(seen)) {
                    prop_assert!((e - s).abs() <= 1e-4 * e.abs().max(1.0), "{trial:?}: {e} and {s}");
                }
            }
            // Whatever else is planned, a trial's effect has the same bits.
            let alone = effects(&f.model, &prompts, std::slice::from_ref(trial), &Watch::nobody()).unwrap();
            prop_assert_eq!(&alone[0], effect);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_spelled_change_does_what_its_trial_sees(
        name in prop::sample::select(vec!["neo-tiny", "gpt2-tiny", "neox-tiny", "llama-tiny", "gemma2-tiny"]),
        tokens in prop::collection::vec(0..50_u32, 3..14),
        ends in (0..99_usize, 0..99_usize),
        directions in prop::collection::vec(0..999_usize, 1..4),
        (number, kind, everywhere) in (-3.0_f32..3.0, 0..4_usize, any::<bool>()),
    ) {
        let f = fixture(name);
        let (saes, prompts) = (&f.saes[..1], Prompts::from_rows([&tokens]));
        let sae = &saes[0];
        let listed: Vec<String> = directions.iter().map(|d| (d % sae.directions()).to_string()).collect();
        let (first, last) = (ends.0.min(ends.1) % tokens.len(), ends.0.max(ends.1) % tokens.len());
        let (first, last) = (first.min(last), first.max(last));
        let what = match kind {
            0 => format!("/{}*0", listed.join(",")),
            1 => format!("/{}*{number}", listed.join(",")),
            2 => format!("/{}={number}", listed.join(",")),
            _ => "=reconstruction".into(),
        };
        let at = if everywhere { String::new() } else { format!("@{first}..{last}") };
        let change = ChangeAt::parse(&format!(" {}{what} {at}", sae.short_name()), &f.model, saes).unwrap();
        let again = ChangeAt::parse(&change.to_string(), &f.model, saes).unwrap();
        prop_assert_eq!(again.to_string(), change.to_string());

        let set: Vec<u32> = directions.iter().map(|d| (d % sae.directions()) as u32).collect();
        let same = match kind {
            0 => Change::Ablate(set),
            1 => Change::Scale { directions: set, by: number },
            2 => Change::Set { directions: set, to: number },
            _ => Change::Reconstruct { without: Vec::new() },
        };
        let positions = if everywhere { 0..tokens.len() } else { first..last + 1 };
        let trial = Trial { prompt: 0, sae, positions, change: same, look: Look::MeanLoss };
        let effect = effects(&f.model, &prompts, &[trial], &Watch::nobody()).unwrap();
        let observe = |changes: &[ChangeAt], before: Option<&Observed>| {
            let hooks = Hooks::of(&f.model, changes, None).unwrap();
            Observed::of(&f.model, saes, &tokens, tokens.len() - 2, &hooks, before, &Watch::nobody()).unwrap()
        };
        let before = observe(&[], None);
        let after = observe(std::slice::from_ref(&change), Some(&before));
        let whole = observe(&[change], None);
        prop_assert!(after.active == whole.active && after.losses == whole.losses && after.logits == whole.logits);
        for (seen, of) in [(&effect[0].before, &before), (&effect[0].after, &after)] {
            let (expected, found) = (seen.loss().unwrap(), of.mean_loss().unwrap());
            prop_assert!((expected - found).abs() <= 1e-4 * expected.abs().max(1.0), "{expected} {found}");
        }
        let answer = after.prediction(tokens[tokens.len() - 1]);
        prop_assert!((answer.log_prob + f64::from(*after.losses.last().unwrap())).abs() < 1e-4);
        for position in 0..tokens.len() {
            let made = everywhere || (first..=last).contains(&position);
            for direction in directions.iter().map(|d| (d % sae.directions()) as u32) {
                let [one, other] = [&before, &after].map(|of| of.active[0].get(position, direction));
                let expected = match kind {
                    0 if made => 0.0,
                    1 if made => number * one,
                    2 if made => number,
                    _ => one,
                };
                prop_assert!((expected - other).abs() <= 1e-4 * expected.abs().max(1.0), "{expected} {other}");
            }
        }
        for changed in most_changed(&before, &after, 5) {
            let at = |of: &Observed| of.active[changed.sae].get(changed.position, changed.direction);
            prop_assert!(at(&before) == changed.before && at(&after) == changed.after && changed.before != changed.after);
        }
    }
}

#[test]
fn a_direction_named_twice_is_changed_once() {
    let f = fixture("neo-tiny");
    let (sae, tokens) = (&f.saes[0], [1, 2, 3, 4, 5, 6]);
    let observe = |hooks: Hooks| Observed::of(&f.model, &f.saes, &tokens, 4, &hooks, None, &Watch::nobody()).unwrap();
    let fires = observe(Hooks::of(&f.model, &[], None).unwrap()).active[0].at(3).0[0];
    for what in ["*1.5", "*-2", "=2", "*0"] {
        let observed = |list: &str| {
            let change = ChangeAt::parse(&format!("{}/{list}{what}", sae.short_name()), &f.model, &f.saes).unwrap();
            assert!(!change.sentence().contains(','), "{}", change.sentence());
            observe(Hooks::of(&f.model, &[change], None).unwrap())
        };
        let (once, twice) = (observed(&fires.to_string()), observed(&format!("{fires},{fires}")));
        assert!(once.active == twice.active && once.logits == twice.logits, "{what}");
    }
    let at = |directions: Vec<u32>| {
        let change = Change::Scale { directions, by: 1.5 };
        observe(Hooks::at([(sae, change, Positions::All)]).unwrap())
    };
    assert!(at(vec![fires]).active == at(vec![fires, fires]).active);
}

#[test]
fn a_later_change_reads_what_an_earlier_one_left() {
    let f = fixture("neo-tiny");
    let (saes, tokens) = (&f.saes[..2], [1, 2, 3, 4, 5, 6]);
    let observe = |texts: &[&str]| {
        let changes: Vec<ChangeAt> = texts.iter().map(|text| ChangeAt::parse(text, &f.model, saes).unwrap()).collect();
        let hooks = Hooks::of(&f.model, &changes, None).unwrap();
        Observed::of(&f.model, saes, &tokens, 4, &hooks, None, &Watch::nobody()).unwrap()
    };
    let both = ["sae-l0=reconstruction", "sae-l1=reconstruction"];
    let together = observe(&both);
    assert_eq!(together.losses, observe(&[both[1], both[0]]).losses);
    // The second encodes what it reads behind the first one's change, and is told as it is before its own.
    let alone = observe(&both[..1]);
    assert!(alone.active[1] == together.active[1] && alone.active[1] != observe(&[]).active[1]);
    assert!(alone.active[0] == observe(&[]).active[0] && alone.losses != together.losses);
    // What is known without changes is not encoded again, and is the same.
    let hooks = |texts: &[&str]| -> Vec<ChangeAt> {
        texts.iter().map(|text| ChangeAt::parse(text, &f.model, saes).unwrap()).collect()
    };
    let unchanged = observe(&[]);
    for texts in [&both[..], &both[1..], &["sae-l0/3=2@1..4", "L0H1=zero"], &["1_mlp_out=zero"]] {
        let hooks = Hooks::of(&f.model, &hooks(texts), None).unwrap();
        let known = Observed::of(&f.model, saes, &tokens, 4, &hooks, Some(&unchanged), &Watch::nobody()).unwrap();
        assert!(known.active == observe(texts).active && known.losses == observe(texts).losses, "{texts:?}");
    }
    // Of parts, by their names; a part set to zero is gone, a mean is one's own to give.
    assert_ne!(observe(&["L0H1=zero@3"]).losses, observe(&[]).losses);
    assert_eq!(observe(&["0_attn_out=zero@5"]).losses[..5], observe(&[]).losses[..5]);
    let mean = [ChangeAt::parse("L0H1=mean", &f.model, saes).unwrap()];
    assert!(matches!(Hooks::of(&f.model, &mean, None), Err(Error::NoMeans)));
    let means = PartMeans::of(&f.model, &Prompts::from_rows([tokens]), &Watch::nobody()).unwrap();
    assert!(Hooks::of(&f.model, &mean, Some(&means)).is_ok());
}

#[test]
fn a_change_that_is_spelled_wrongly_says_what_was_expected() {
    let f = fixture("neo-tiny");
    for (text, said) in [
        ("", "says nothing that is done"),
        ("sae-l0/4", "says nothing that is done"),
        ("sae-l9/4*0", "`sae-l9` is no SAE here (sae-l0, "),
        ("sae-l0/x*0", "`x` is no direction's number"),
        ("sae-l0/-1*0", "`-1` is no direction's number"),
        ("sae-l0/4*NaN", "no finite number"),
        ("sae-l0/4=inf", "no finite number"),
        ("sae-l0/99999*0", "99999"),
        ("sae-l0*0", "only directions are multiplied"),
        ("sae-l0=zero", "`reconstruction`"),
        ("L0H99=zero", "nor is it a part of the model"),
        ("0_resid_pre=mean", "can become `zero`, not"),
        ("0_attn_out=2", "can become `zero` or `mean`"),
        ("sae-l0/4*0@x", "`@x` is no position"),
        ("sae-l0/4*0@5..2", "`@5..2` is no position"),
    ] {
        let error = ChangeAt::parse(text, &f.model, &f.saes[..2]).unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
    let late = ChangeAt::parse("sae-l0/4*0@7", &f.model, &f.saes[..2]).unwrap();
    assert!(late.check(7).unwrap_err().to_string().contains("positions 0 to 6"));
    assert!(late.check(8).is_ok());
}

#[test]
fn directions_ablated_each_alone_are_those_of_one_at_a_time() {
    let f = fixture("neo-tiny");
    let (sae, nobody) = (&f.saes[0], Watch::nobody());
    let prompts = Prompts::from_rows([vec![1, 2, 3, 4, 5], vec![5, 6, 7], vec![8, 9, 10, 11]]);
    let directions: Vec<u32> = (0..20).collect();
    let of = |direction| {
        let ablate = || Change::Ablate(vec![direction]);
        (0..3).map(|prompt| Trial::answer(sae, &prompts, prompt, ablate())).collect()
    };
    let (chosen, change, over) = (Chosen::Given, "ablated alone before the answer", "prompts");
    let about = About { chosen, change, measure: "loss_increase", unit: "nats", over };
    let every = |prompt: usize| 0..prompts.get(prompt).len();
    let Activity { active, matched } = activity(&f.model, sae, &prompts, every, &directions, &nobody).unwrap();
    let rows = ablate_each(&f.model, &prompts, &directions, about, of, Some(&matched), &nobody).unwrap();
    let run = f.model.run(&prompts, &Ask::capture([sae.site().reads.hook]), &[]).unwrap();
    let acts = sae.encode(run.captured(sae.site().reads.hook)).unwrap();
    let fires = |rows: std::ops::Range<usize>, d: &u32| rows.into_iter().any(|row| acts.get(row, *d) > 0.0);
    for (prompt, ends) in prompts.offsets().windows(2).enumerate() {
        let expected: Vec<u32> = directions.iter().copied().filter(|d| fires(ends[0]..ends[1], d)).collect();
        assert_eq!(active[prompt], expected);
    }
    for (row, &direction) in rows.iter().zip(&directions) {
        let increase = |prompt| {
            let change = Change::Ablate(vec![direction]);
            let [before, after] = naive(&f, &prompts, &Trial::answer(sae, &prompts, prompt, change).unwrap());
            before[0] - after[0]
        };
        let expected = Estimate::of((0..3).map(increase));
        let Claim { estimate, controls, .. } = row.loss_increase;
        assert_eq!((row.direction, estimate.n, controls.rows.unwrap().n), (direction as usize, 3, 3));
        let fires = active.iter().any(|active| active.contains(&direction));
        assert_eq!(controls.directions.map_or(0, |control| control.n), if fires { 3 } else { 0 });
        assert!((estimate.mean - expected.mean).abs() < 1e-4, "{row:?} {expected:?}");
        assert!((estimate.half_width - expected.half_width).abs() < 1e-3, "{row:?} {expected:?}");
    }
    assert!(rows.iter().any(|row| row.loss_increase.mean().abs() > 1e-3));
    assert!(
        rows.iter().any(|row| row.loss_increase.controls.rows.unwrap().mean.abs() > 1e-4),
        "the control changes something, too"
    );
}

#[test]
fn a_trial_that_cannot_be_is_an_error() {
    let f = fixture("neo-tiny");
    let (sae, prompts) = (&f.saes[0], Prompts::from_rows([vec![1, 2, 3], vec![4]]));
    let ablate = |d| Change::Ablate(vec![d]);
    let good = Trial::answer(sae, &prompts, 0, ablate(1)).unwrap();
    let message =
        |trial: Trial| effects(&f.model, &prompts, &[good.clone(), trial], &Watch::nobody()).unwrap_err().to_string();
    assert!(message(Trial { prompt: 7, ..good.clone() }).contains("prompt 7"));
    assert!(message(Trial { positions: 3..4, ..good.clone() }).contains("position 3"));
    assert!(message(Trial { change: ablate(99_999), ..good.clone() }).contains("99999"));
    assert!(message(Trial { look: Look::Prediction { position: 9, token: 1 }, ..good.clone() }).contains("position 9"));
    assert!(message(Trial { look: Look::Prediction { position: 1, token: 99_999 }, ..good.clone() }).contains("99999"));
    assert!(
        message(Trial { prompt: 1, positions: 0..1, look: Look::MeanLoss, ..good.clone() }).contains("fewer than two")
    );
    assert!(Trial::answer(sae, &prompts, 1, ablate(1)).is_err() && Trial::at(sae, &prompts, 0, 2, ablate(1)).is_err());
}

#[test]
fn an_effect_that_was_not_looked_at_is_an_error() {
    let f = fixture("neo-tiny");
    let prompts = Prompts::from_rows([vec![1, 2, 3]]);
    let position = 1;
    let look = Look::Activation { sae: &f.saes[1], direction: 3, position };
    let trial = Trial { prompt: 0, sae: &f.saes[0], positions: 1..2, change: Change::Zero, look };
    let effect = effects(&f.model, &prompts, std::slice::from_ref(&trial), &Watch::nobody()).unwrap().remove(0);
    assert!(effect.before.activation().is_ok());
    assert!(effect.loss_increase().unwrap_err().to_string().contains("did not look at a loss"));
    assert!(effect.after.prediction().is_err() && effect.after.log_probs().is_err());
    let about =
        About { chosen: Chosen::Given, change: "zeroed", measure: "loss_increase", unit: "nats", over: "prompts" };
    assert!(loss_claims(&f.model, &prompts, &[(about, vec![trial])], None, &Watch::nobody()).is_err());
}

#[test]
fn a_stopped_analysis_says_so() {
    let f = fixture("neo-tiny");
    let prompts = Prompts::from_rows([vec![1, 2, 3]]);
    let trial = Trial::answer(&f.saes[0], &prompts, 0, Change::Zero).unwrap();
    let stopped = Watch::new(std::sync::Arc::new(true.into()), |_| ());
    assert!(matches!(effects(&f.model, &prompts, &[trial], &stopped), Err(Error::Stopped)));
}

/// Analyses that take a matrix for what is none in a model say so; the others are right.
#[test]
fn what_gates_and_norms_behind_make_wrong_is_refused() {
    let prompts = Prompts::from_rows([[1, 2, 3, 4], [9, 8, 7, 6]]);
    let nobody = Watch::nobody();
    for name in ["llama-tiny", "gemma2-tiny"] {
        let Fixture { model, saes } = fixture(name);
        let sae = &saes[1];
        let gated = "neurons are products of a gate and a linear part";
        let refused = |error: String, words: &str| assert!(error.contains(words), "{name}: {error}");
        refused(mean_decomposition(&model, sae, &prompts, &nobody).unwrap_err().to_string(), gated);
        let dfa = attribution_to_direction(&model, sae, 0, &prompts, &[1, 2], Inactive::Zero, &nobody);
        refused(dfa.unwrap_err().to_string(), gated);
        refused(
            cosine_pairs(&model, &saes[0], sae, 3, false, &nobody).unwrap_err().to_string(),
            if name == "llama-tiny" { gated } else { "passes a norm" },
        );
        match (logit_boosts(&model, sae, 0), remainder(&model, sae, &prompts, 5, &nobody)) {
            (Ok(boosts), Ok(rows)) => assert!(name == "llama-tiny" && boosts.len() == 64 && rows.len() == 3),
            (Err(a), Err(b)) => {
                assert_eq!(name, "gemma2-tiny");
                refused(a.to_string(), "passes a norm");
                refused(b.to_string(), "passes a norm");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// What the components contribute adds up to the logit, before its soft cap and without the unembedding's bias.
#[test]
fn contributions_add_up_to_the_logit() {
    let prompts = Prompts::from_rows([[1, 2, 3, 4, 50]]);
    for name in ["gpt2-tiny", "llama-tiny", "qwen3-tiny", "gemma2-tiny", "gemma3-tiny"] {
        let model = fixture(name).model;
        let sum: f64 = logit_attribution(&model, &prompts, &Watch::nobody()).unwrap().iter().map(|row| row.mean).sum();
        let ask = Ask::nothing().with_capture(HookPoint::UnembedOut, Positions::FromEnd(2));
        let run = model.run(&prompts, &ask, &[]).unwrap();
        let expected = (run.captured(HookPoint::UnembedOut).row(0)[50] - model.weights().b_u[50]) as f64;
        assert!((sum - expected).abs() < 1e-4 * expected.abs().max(1.0), "{name}: {sum} {expected}");
        assert_eq!(matches!(model.config().norm, Norm::Rms { .. }), name != "gpt2-tiny");
    }
}

/// What neurons write adds up: the site's share of the logit is that of the MLP, but for its bias.
#[test]
fn the_share_of_a_site_is_that_of_its_mlp_with_rms_norms() {
    let Fixture { model, saes } = fixture("llama-tiny");
    let prompts = Prompts::from_rows([[1, 2, 3, 4, 50], [7, 7, 30, 2, 50]]);
    let parts = logit_attribution(&model, &prompts, &Watch::nobody()).unwrap();
    let rows = remainder(&model, &saes[1], &prompts, 50, &Watch::nobody()).unwrap();
    let mlp = parts.iter().find(|row| row.component == "1_mlp_out").unwrap();
    assert!((mlp.mean - rows[0].mean).abs() < 1e-4, "{} {}", mlp.mean, rows[0].mean);
}
