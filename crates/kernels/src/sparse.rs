//! Sparse activations in compressed rows.

/// The activations of an SAE over a batch of positions: per position, the directions that fire, ascending, and how
/// strongly. Compressed sparse rows, as `scipy.sparse.csr_matrix`.
#[derive(Debug, Clone, PartialEq)]
pub struct SparseActivations {
    indptr: Vec<usize>,
    directions: Vec<u32>,
    values: Vec<f32>,
}

/// Where the entries of [`SparseActivations`] are, direction after direction: compressed columns without values. An
/// operation takes the values in this order beside it, so that one pattern serves activations and gradients.
#[derive(Debug, Clone, PartialEq)]
pub struct ByDirection {
    indptr: Vec<usize>,
    positions: Vec<u32>,
    entries: Vec<u32>,
}

impl ByDirection {
    /// Number of directions.
    pub fn directions(&self) -> usize {
        self.indptr.len() - 1
    }

    /// Number of entries.
    pub fn active(&self) -> usize {
        self.positions.len()
    }

    /// Where each direction's entries begin: `directions + 1` offsets.
    pub fn indptr(&self) -> &[usize] {
        &self.indptr
    }

    /// The entries of a direction.
    pub fn range(&self, direction: usize) -> std::ops::Range<usize> {
        self.indptr[direction]..self.indptr[direction + 1]
    }

    /// The position of every entry; ascending within a direction.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// Values beside the entries of [`SparseActivations`], in the order of this.
    pub fn arrange(&self, values: &[f32]) -> Vec<f32> {
        self.entries.iter().map(|entry| values[*entry as usize]).collect()
    }
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

    /// The positions of all parts, one part after another.
    pub fn joined(parts: &[SparseActivations]) -> SparseActivations {
        let active = parts.iter().map(SparseActivations::active).sum();
        let positions: usize = parts.iter().map(SparseActivations::positions).sum();
        let mut all = SparseActivations {
            indptr: Vec::with_capacity(positions + 1),
            directions: Vec::with_capacity(active),
            values: Vec::with_capacity(active),
        };
        all.indptr.push(0);
        parts.iter().for_each(|part| all.extend(part));
        all
    }

    /// The same pattern with other values.
    ///
    /// # Panics
    /// If there are not as many values as entries.
    pub fn with_values(mut self, values: Vec<f32>) -> SparseActivations {
        assert_eq!(values.len(), self.values.len());
        self.values = values;
        self
    }

    /// The entries whose direction is in turn, each with the number of its entry here.
    pub fn by_direction(&self, directions: usize) -> ByDirection {
        let mut indptr = vec![0; directions + 1];
        self.directions.iter().for_each(|d| indptr[*d as usize + 1] += 1);
        (0..directions).for_each(|d| indptr[d + 1] += indptr[d]);
        let mut next = indptr.clone();
        let mut positions = vec![0; self.active()];
        let mut entries = vec![0; self.active()];
        for position in 0..self.positions() {
            for entry in self.indptr[position]..self.indptr[position + 1] {
                let place = &mut next[self.directions[entry] as usize];
                (positions[*place], entries[*place]) = (position as u32, entry as u32);
                *place += 1;
            }
        }
        ByDirection { indptr, positions, entries }
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
