//! Directions that stand in for others in a control.

use std::collections::BTreeSet;

use directrix_index::SaeIndex;
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

/// Of a direction's neighbours by density, so many on either side may stand in for it.
const NEIGHBOURS: usize = 10;

/// Random directions of matched density: what is ablated in place of a direction to see what ablating any such does.
#[derive(Debug, Clone)]
pub struct Matched {
    /// The directions that fire somewhere, by density.
    order: Vec<u32>,
    /// Where each stands in that order; `None` if it never fires.
    place: Vec<Option<usize>>,
}

impl Matched {
    /// By how many positions of the corpus each direction fires at.
    pub fn of(sae: &SaeIndex) -> Matched {
        Matched::by((0..sae.directions()).map(|direction| sae.direction(direction).active))
    }

    /// By how many positions each direction fires at.
    pub(crate) fn by(active: impl Iterator<Item = u64>) -> Matched {
        let active: Vec<u64> = active.collect();
        let mut order: Vec<u32> = (0..active.len() as u32).filter(|d| active[*d as usize] > 0).collect();
        order.sort_by_key(|d| (active[*d as usize], *d));
        let mut place = vec![None; active.len()];
        for (at, direction) in order.iter().enumerate() {
            place[*direction as usize] = Some(at);
        }
        Matched { order, place }
    }

    /// For each of `directions` that fires anywhere, one of those nearest to it in density: none of `directions`, none twice.
    /// The same seed draws the same.
    pub fn draw(&self, directions: &[u32], seed: u64) -> Vec<u32> {
        self.draw_among(directions, seed, |_| true)
    }

    /// As [`draw`](Matched::draw), of those that `may` stand in.
    pub fn draw_among(&self, directions: &[u32], seed: u64, may: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut taken: BTreeSet<u32> = directions.iter().copied().collect();
        let (mut named, mut drawn) = (BTreeSet::new(), Vec::new());
        let each_once = directions.iter().filter(|d| named.insert(**d));
        for place in each_once.filter_map(|d| self.place.get(*d as usize).copied().flatten()) {
            let free = |direction: &&u32| !taken.contains(direction) && may(**direction);
            let below = self.order[..place].iter().rev().filter(free).take(NEIGHBOURS);
            let above = self.order[place..].iter().filter(free).take(NEIGHBOURS);
            let near: Vec<u32> = below.chain(above).copied().collect();
            if let Some(&one) = near.choose(&mut random) {
                taken.insert(one);
                drawn.push(one);
            }
        }
        drawn
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_stands_in_is_near_in_density_and_is_another(
            active in prop::collection::vec(0..50_u64, 1..200),
            chosen in prop::collection::vec(0..200_usize, 1..8),
            seed in any::<u64>(),
        ) {
            let directions: Vec<u32> = chosen.iter().map(|d| (d % active.len()) as u32).collect::<BTreeSet<_>>().into_iter().collect();
            let matched = Matched::by(active.iter().copied());
            let drawn = matched.draw(&directions, seed);
            prop_assert_eq!(&drawn, &matched.draw(&directions, seed));
            let named_twice: Vec<u32> = directions.iter().flat_map(|d| [*d, *d]).collect();
            prop_assert_eq!(&drawn, &matched.draw(&named_twice, seed));
            prop_assert_eq!(drawn.iter().collect::<BTreeSet<_>>().len(), drawn.len());
            prop_assert!(drawn.iter().all(|d| !directions.contains(d) && active[*d as usize] > 0));
            let alive = active.iter().filter(|n| **n > 0).count();
            let wanted = directions.iter().filter(|d| active[**d as usize] > 0).count();
            prop_assert_eq!(drawn.len(), wanted.min(alive - wanted));
            if let ([one], [other]) = (&directions[..], &drawn[..]) {
                // Fewer than eleven are nearer on its side.
                let (one, other) = (matched.place[*one as usize].unwrap(), matched.place[*other as usize].unwrap());
                prop_assert!(one.abs_diff(other) <= NEIGHBOURS);
            }
        }
    }
}
