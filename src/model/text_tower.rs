//! text_tower

/// TextTower
pub struct TextTower {}
