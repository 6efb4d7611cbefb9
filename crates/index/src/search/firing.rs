//! How directions fire at the positions that a query finds.

use rayon::prelude::*;
use serde::Serialize;

use super::Found;
use crate::index::Meta;
use crate::{Result, SaeIndex};

/// Parts in which found positions are counted, so that their sums are the same on any number of threads.
const PARTS: u64 = 16;

/// How a direction fires at matches, beside all positions that count.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Firing {
    /// The direction.
    pub direction: usize,
    /// Matches at which it fires.
    pub fires: u64,
    /// Share of the matches at which it fires.
    pub share: f64,
    /// Its mean activation over the matches at which it fires.
    pub mean: f64,
    /// Share of the positions at which it fires that are matches.
    pub precision: f64,
    /// Share of all positions at which it fires.
    pub density: f64,
    /// `share / density`: how many times as often it fires at a match as at any position.
    pub lift: f64,
    /// The log-likelihood ratio of its firing as often at matches as elsewhere, below 0 where it fires less often at matches:
    ///
    /// `G² = 2 Σ O ln(O / E)` over the four counts O of positions at which it fires or not, matches or not, where E is what
    /// each would be were firing and matching independent (Dunning 1993, Accurate Methods for the Statistics of Surprise and Coincidence).
    ///
    /// Lift alone favours directions that fire once or twice, and share those that fire everywhere; this weighs how
    /// far the share is from the density by how many positions say so. Positions of a prompt are no
    /// independent draws, so it ranks and is no test.
    pub g2: f64,
}

/// The `k` directions of an SAE that fire at matches, by [`Firing::g2`].
pub(super) fn firing(meta: &Meta, sae: &SaeIndex, found: &Found, k: usize) -> Result<Vec<Firing>> {
    let counted = meta.counted.max(found.matches);
    let tallies = tally(meta.positions, sae, found)?;
    let firing = tallies.into_iter().enumerate().filter(|(_, tally)| tally.fires > 0).map(|(direction, tally)| {
        let Tally { fires, sum } = tally;
        let active = sae.direction(direction).active.max(fires);
        let (share, density) = (fires as f64 / found.matches as f64, active as f64 / counted as f64);
        Firing {
            direction,
            fires,
            share,
            mean: sum / fires as f64,
            precision: fires as f64 / active as f64,
            density,
            lift: share / density,
            g2: g2(fires, found.matches, active, counted),
        }
    });
    let mut firing: Vec<Firing> = firing.collect();
    firing.sort_by(|a, b| b.g2.total_cmp(&a.g2).then(a.direction.cmp(&b.direction)));
    firing.truncate(k);
    Ok(firing)
}

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    fires: u64,
    sum: f64,
}

/// How often each direction fires at the positions found, and the sum of its activations there.
fn tally(positions: u64, sae: &SaeIndex, found: &Found) -> Result<Vec<Tally>> {
    let parts = (found.matches / 4096).clamp(1, PARTS);
    let part = |part: u64| {
        let mut tallies = vec![Tally::default(); sae.directions()];
        for (number, shard) in found.all.shards.iter().enumerate() {
            let own = |position: u64| position.clamp(shard.first_position, shard.first_position + shard.tokens.len());
            let within = own(positions * part / parts)..own(positions * (part + 1) / parts);
            for run in found.set.runs(within) {
                let rows = (run.start - shard.first_position) as u32..(run.end - shard.first_position) as u32;
                let (directions, values) = sae.rows(number, rows)?;
                for (direction, value) in directions.iter().zip(values) {
                    let tally = &mut tallies[*direction as usize];
                    tally.fires += 1;
                    tally.sum += f64::from(*value);
                }
            }
        }
        Ok(tallies)
    };
    let parts: Vec<Vec<Tally>> = (0..parts).into_par_iter().map(part).collect::<Result<_>>()?;
    let mut parts = parts.into_iter();
    let mut sums = parts.next().unwrap_or_default();
    for part in parts {
        for (sum, part) in sums.iter_mut().zip(part) {
            sum.fires += part.fires;
            sum.sum += part.sum;
        }
    }
    Ok(sums)
}

/// [`Firing::g2`] of a direction that fires at `both` of `matches` and at `active` of `all` positions.
fn g2(both: u64, matches: u64, active: u64, all: u64) -> f64 {
    let [both, matches, active, all] = [both, matches, active, all].map(|count| count as f64);
    let term = |observed: f64, expected: f64| if observed > 0.0 { observed * (observed / expected).ln() } else { 0.0 };
    let elsewhere = all - matches;
    let sum = term(both, matches * active / all)
        + term(matches - both, matches * (all - active) / all)
        + term(active - both, elsewhere * active / all)
        + term(elsewhere - (active - both), elsewhere * (all - active) / all);
    let is_less = both * all < matches * active;
    // What rounding leaves of 0 may be below it.
    let size = 2.0 * sum.max(0.0);
    if is_less { -size } else { size }
}
