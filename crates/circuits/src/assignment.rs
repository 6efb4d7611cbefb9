//! Optimal assignment: which row goes with which column, one to one, so that the sum of weights is as large as can be.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// A row and a column that may go together, and what that is worth: more than zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Edge {
    pub(crate) row: u32,
    pub(crate) column: u32,
    pub(crate) weight: f32,
}

/// A column and the length of the shortest path to it; nearer ones first, of equals the lower.
#[derive(PartialEq)]
struct Reached {
    distance: f64,
    column: usize,
}

impl Eq for Reached {}

impl Ord for Reached {
    fn cmp(&self, other: &Reached) -> Ordering {
        self.distance.total_cmp(&other.distance).then(self.column.cmp(&other.column))
    }
}

impl PartialOrd for Reached {
    fn partial_cmp(&self, other: &Reached) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Of each row, its column in an assignment of the largest sum of weights over all one-to-one assignments along `edges`; `None` of a row
/// left alone, which is worth 0.
///
/// Exact: shortest augmenting paths with dual prices (Jonker and Volgenant 1987, for sparse graphs), each found by Dijkstra's algorithm
/// over the edges alone. Every row also has a place of its own worth 0, so that all rows can be assigned.
pub(crate) fn assign(rows: usize, columns: usize, edges: &[Edge]) -> Vec<Option<usize>> {
    let mut assignment = Assignment::new(rows, columns, edges);
    (0..rows).for_each(|row| assignment.place(row));
    assignment.column_of
}

/// Costs are negative weights. `price_of_row + price_of_column ≤ cost` on every edge, with equality on those assigned; a row's price is
/// at most 0, with equality if it is alone, and so is a column's.
struct Assignment {
    /// Where each row's edges begin, and the last's end.
    offsets: Vec<usize>,
    edges: Vec<Edge>,
    column_of: Vec<Option<usize>>,
    row_of: Vec<Option<usize>>,
    row_price: Vec<f64>,
    column_price: Vec<f64>,
    /// Of each column: its distance in the search of row `search - 1`, the row it was reached from, and whether it was passed.
    distance: Vec<f64>,
    from: Vec<usize>,
    reached_in: Vec<usize>,
    passed_in: Vec<usize>,
    search: usize,
}

/// Where a shortest path ends.
#[derive(Clone, Copy)]
enum End {
    /// In a column that no row has.
    Column(usize),
    /// In a row that is left alone.
    Row(usize),
}

impl Assignment {
    fn new(rows: usize, columns: usize, edges: &[Edge]) -> Assignment {
        let mut edges = edges.to_vec();
        edges.sort_by_key(|edge| (edge.row, edge.column));
        let offsets = (0..=rows).map(|row| edges.partition_point(|edge| (edge.row as usize) < row)).collect();
        Assignment {
            offsets,
            edges,
            column_of: vec![None; rows],
            row_of: vec![None; columns],
            row_price: vec![0.0; rows],
            column_price: vec![0.0; columns],
            distance: vec![0.0; columns],
            from: vec![0; columns],
            reached_in: vec![0; columns],
            passed_in: vec![0; columns],
            search: 0,
        }
    }

    /// Gives `row` its place, moving others along the cheapest path.
    fn place(&mut self, start: usize) {
        self.search += 1;
        // The lowest price that its edges allow, so that no reduced cost is negative.
        let own = &self.edges[self.offsets[start]..self.offsets[start + 1]];
        let reduced = own.iter().map(|edge| -f64::from(edge.weight) - self.column_price[edge.column as usize]);
        self.row_price[start] = reduced.fold(0.0, f64::min);

        let (mut row, mut at) = (start, 0.0);
        let (mut nearest, mut passed) = (BinaryHeap::new(), Vec::new());
        let (mut length, mut end) = (f64::INFINITY, End::Row(start));
        loop {
            let alone = at - self.row_price[row];
            if alone < length {
                (length, end) = (alone, End::Row(row));
            }
            for edge in &self.edges[self.offsets[row]..self.offsets[row + 1]] {
                let column = edge.column as usize;
                let distance = at - f64::from(edge.weight) - self.row_price[row] - self.column_price[column];
                let is_known = self.reached_in[column] == self.search && self.distance[column] <= distance;
                if self.passed_in[column] != self.search && !is_known {
                    (self.distance[column], self.from[column]) = (distance, row);
                    self.reached_in[column] = self.search;
                    nearest.push(Reverse(Reached { distance, column }));
                }
            }
            let is_stale = |reached: &Reached, of: &Assignment| {
                of.passed_in[reached.column] == of.search || reached.distance > of.distance[reached.column]
            };
            let next = loop {
                match nearest.pop() {
                    Some(Reverse(reached)) if is_stale(&reached, self) => {}
                    other => break other,
                }
            };
            let Some(Reverse(Reached { distance, column })) = next.filter(|Reverse(next)| next.distance < length)
            else {
                break;
            };
            let Some(owner) = self.row_of[column] else {
                (length, end) = (distance, End::Column(column));
                break;
            };
            self.passed_in[column] = self.search;
            passed.push(column);
            (row, at) = (owner, distance);
        }
        self.row_price[start] += length;
        for column in passed {
            let shift = length - self.distance[column];
            self.column_price[column] -= shift;
            self.row_price[self.row_of[column].expect("a column that was passed has a row")] += shift;
        }
        self.shift_along(start, end);
    }

    /// Moves the rows on the path from `start` to its end by one place.
    fn shift_along(&mut self, start: usize, end: End) {
        let mut free = match end {
            End::Column(column) => column,
            End::Row(row) if row == start => return,
            End::Row(row) => self.column_of[row].take().expect("a row on the path has a column"),
        };
        loop {
            let row = self.from[free];
            self.row_of[free] = Some(row);
            let before = self.column_of[row].replace(free);
            if row == start {
                return;
            }
            free = before.expect("a row on the path has a column");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn edges(rows: u32, columns: u32, most: usize) -> impl Strategy<Value = Vec<Edge>> {
        let one = (0..rows, 0..columns, 1..50_u8).prop_map(|(row, column, weight)| Edge {
            row,
            column,
            weight: f32::from(weight) / 7.0,
        });
        prop::collection::vec(one, 0..most).prop_map(|mut edges| {
            edges.sort_by_key(|edge| (edge.row, edge.column));
            edges.dedup_by_key(|edge| (edge.row, edge.column));
            edges
        })
    }

    fn worth(edges: &[Edge], columns: &[Option<usize>]) -> f64 {
        let of = |(row, column): (usize, &Option<usize>)| {
            let Some(column) = *column else { return 0.0 };
            let along = edges.iter().find(|edge| (edge.row as usize, edge.column as usize) == (row, column));
            f64::from(along.expect("assignments are along edges").weight)
        };
        columns.iter().enumerate().map(of).sum()
    }

    /// The largest sum from `row` on with some columns taken, by trying everything.
    fn best(edges: &[Edge], row: u32, rows: u32, taken: u32) -> f64 {
        if row == rows {
            return 0.0;
        }
        let free = edges.iter().filter(|edge| edge.row == row && taken & (1 << edge.column) == 0);
        let with = free.map(|edge| f64::from(edge.weight) + best(edges, row + 1, rows, taken | (1 << edge.column)));
        with.fold(best(edges, row + 1, rows, taken), f64::max)
    }

    proptest! {
        #[test]
        fn no_assignment_is_worth_more(edges in edges(7, 6, 30)) {
            let found = assign(7, 6, &edges);
            let mut columns: Vec<usize> = found.iter().flatten().copied().collect();
            columns.sort_unstable();
            columns.dedup();
            prop_assert_eq!(columns.len(), found.iter().flatten().count());
            prop_assert!((worth(&edges, &found) - best(&edges, 0, 7, 0)).abs() < 1e-9);
        }

        #[test]
        fn prices_prove_a_large_assignment_optimal(edges in edges(300, 250, 3000)) {
            let mut of = Assignment::new(300, 250, &edges);
            (0..300).for_each(|row| of.place(row));
            // Prices that no edge exceeds bound every assignment's sum from above.
            for edge in &edges {
                prop_assert!(of.row_price[edge.row as usize] + of.column_price[edge.column as usize] <= 1e-9 - f64::from(edge.weight));
            }
            prop_assert!(of.row_price.iter().chain(&of.column_price).all(|price| *price <= 1e-9));
            let bound: f64 = -of.row_price.iter().chain(&of.column_price).sum::<f64>();
            prop_assert!((worth(&edges, &of.column_of) - bound).abs() < 1e-6);
            for (row, column) in of.column_of.iter().enumerate() {
                prop_assert!(column.is_none_or(|column| of.row_of[column] == Some(row)));
            }
        }
    }

    #[test]
    fn a_worse_edge_is_taken_where_that_frees_a_better_one() {
        let edge = |row, column, weight| Edge { row, column, weight };
        let edges = [edge(0, 0, 0.9), edge(0, 1, 0.8), edge(1, 0, 0.85)];
        assert_eq!(assign(2, 2, &edges), [Some(1), Some(0)]);
        assert_eq!(assign(2, 2, &edges[..2]), [Some(0), None]);
        assert_eq!(assign(0, 0, &[]), []);
    }
}
