//! Models with known wiring between two dictionaries: what is planted is found, what only looks like it is rejected, and where nothing
//! is planted nothing is found.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::planted::*;
use directrix_circuits::edges::{Between, Edge, Measure, Path, Ranked, Ranking, Sample, VerifiedEdge, Verify, Weights};
use directrix_corpus::Watch;

/// All pairs by what ablating does, strongest first.
fn causal(between: &Between) -> Vec<Ranked> {
    let mut ranking = Ranking::new(FEATURES * FEATURES);
    between.causal(Sample::default(), &Watch::nobody(), |ranked| ranking.show(ranked)).unwrap();
    ranking.finish()
}

fn verified(between: &Between, edges: &[Ranked]) -> Vec<VerifiedEdge> {
    between.verify(edges, Verify { prompts: 32, ..Verify::default() }, &Watch::nobody()).unwrap()
}

#[test]
fn every_planted_edge_ranks_first_by_causal_effect_and_is_verified_while_decoys_are_not() {
    for seed in 0..20 {
        let (wired, planted) = wired(seed, |random| Some(with_wiring(random)));
        let (between, planted) = (wired.between(), planted.unwrap());
        let ranked = causal(&between);
        let first: BTreeSet<Edge> = ranked[..5].iter().map(|ranked| ranked.edge).collect();
        assert_eq!(first, planted.edges(), "seed {seed}: {:?}", &ranked[..8]);
        assert!(ranked[..5].iter().all(|ranked| ranked.value < -0.05), "seed {seed}");

        let rows = verified(&between, &ranked);
        for row in &rows {
            let edge = row.ranked.edge;
            assert_eq!(row.verified, planted.edges().contains(&edge), "seed {seed}: {row:?}");
            if row.verified {
                assert!(row.high < 0.0 && row.activation > 0.0, "seed {seed}: {row:?}");
            }
        }

        // What rejects the decoys is that each is high by a measure that is not causal.
        let weights =
            Weights::new(&wired.model, [&wired.saes[0], &wired.saes[1]], Path::Residual, Measure::Cosine).unwrap();
        let [gated, twin] = planted.decoys();
        let fetched = Edge { first: planted.fetched, second: FETCHED };
        assert!(weights.of(gated) > 0.6 && weights.of(fetched).abs() < 1e-5, "seed {seed}");
        let mut correlations = BTreeMap::new();
        let see = |all: [Ranked; 3]| {
            correlations.insert(all[2].edge, all[2].value);
        };
        between.coactivation(&Watch::nobody(), see).unwrap();
        let own = Edge { first: planted.and[0], second: AND };
        assert!((correlations[&twin] - correlations[&own]).abs() < 1e-3 && correlations[&twin] > 0.2, "seed {seed}");
        let head = Path::Head { layer: 1, head: 0 };
        let through = Weights::new(&wired.model, [&wired.saes[0], &wired.saes[1]], head, Measure::Cosine).unwrap();
        assert_eq!(through.strongest(1, &Watch::nobody()).unwrap()[0].edge, fetched, "seed {seed}");
    }
}

#[test]
fn where_nothing_is_wired_verification_finds_no_more_than_its_rate() {
    let (mut tested, mut found) = (0, 0);
    for seed in 0..20 {
        let (wired, _) = wired(seed, |_| None);
        let between = wired.between();
        let ranked = causal(&between);
        let rows = verified(&between, &ranked);
        tested += rows.len();
        found += rows.iter().filter(|row| row.verified).count();
    }
    assert!(tested > 20 * 300, "{tested} pairs were tested");
    assert!(found as f64 <= 0.05 * tested as f64, "{found} of {tested} edges that do not exist were verified");
}
