//! What every direction of an SAE fires on.
