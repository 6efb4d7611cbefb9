//! Sparse activations in compressed rows.

/// The activations of an SAE over a batch of positions: per position, the directions that fire, ascending, and how
/// strongly. Compressed sparse rows, as `scipy.sparse.csr_matrix`.
#[derive(Debug, Clone, PartialEq)]
pub struct SparseActivations {
    indptr: Vec<usize>,
    directions: Vec<u32>,
    values: Vec<f32>,
}

impl Default for SparseActivations {
    fn default() -> Self {
        SparseActivations { indptr: vec![0], directions: Vec::new(), values: Vec::new() }
    }
}

impl SparseActivations {
    /// Appends a position.
    pub fn push(&mut self, active: impl IntoIterator<Item = (u32, f32)>) {
        for (direction, value) in active {
            self.directions.push(direction);
            self.values.push(value);
        }
        self.indptr.push(self.directions.len());
    }

    /// Appends all positions of `other`.
    pub fn extend(&mut self, other: &SparseActivations) {
        let offset = self.directions.len();
        self.directions.extend_from_slice(&other.directions);
        self.values.extend_from_slice(&other.values);
        self.indptr.extend(other.indptr[1..].iter().map(|i| i + offset));
    }

    /// Number of positions.
    pub fn positions(&self) -> usize {
        self.indptr.len() - 1
    }

    /// Number of stored activations.
    pub fn active(&self) -> usize {
        self.values.len()
    }

    /// Where each position's entries begin: `positions + 1` offsets.
    pub fn indptr(&self) -> &[usize] {
        &self.indptr
    }

    /// The active directions of all positions, one after another.
    pub fn directions(&self) -> &[u32] {
        &self.directions
    }

    /// The activations beside [`directions`](Self::directions).
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The directions active at `position`, ascending, and their activations.
    pub fn at(&self, position: usize) -> (&[u32], &[f32]) {
        let range = self.indptr[position]..self.indptr[position + 1];
        (&self.directions[range.clone()], &self.values[range])
    }

    /// The activation of `direction` at `position`; 0 when it does not fire.
    pub fn get(&self, position: usize, direction: u32) -> f32 {
        let (directions, values) = self.at(position);
        directions.binary_search(&direction).map_or(0.0, |i| values[i])
    }

    /// All activations as one dense row-major buffer, `[positions, directions]`.
    pub fn to_dense(&self, directions: usize) -> Vec<f32> {
        let mut dense = vec![0.0; self.positions() * directions];
        for position in 0..self.positions() {
            let (active, values) = self.at(position);
            for (&direction, &value) in active.iter().zip(values) {
                dense[position * directions + direction as usize] = value;
            }
        }
        dense
    }
}
