//! What a forward pass keeps for the backward pass, and where.

/// What a forward pass keeps for the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// Everything.
    All,
    /// The input of each layer; the rest is computed again (Chen et al. 2016).
    Inputs,
    /// Nothing: there is no backward pass.
    Nothing,
}

impl Keep {
    /// Hidden states that have a place, for so many layers: the input of each, and the last one's result.
    pub(super) fn hidden(self, layers: usize) -> usize {
        if self == Self::Nothing { 2 } else { layers + 1 }
    }

    /// The place of a layer's input; its result has the next layer's.
    pub(super) fn slot(self, layer: usize) -> usize {
        if self == Self::Nothing { layer % 2 } else { layer }
    }

    /// Layers whose inside has a place.
    pub(super) fn tapes(self, layers: usize) -> usize {
        if self == Self::All { layers } else { 1 }
    }

    /// The place of a layer's inside.
    pub(super) fn tape(self, layer: usize) -> usize {
        if self == Self::All { layer } else { 0 }
    }
}
