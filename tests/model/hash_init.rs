//! Known answers of the weight generator, computed by its Python twin.

use pcqa::train::hash_init::{Fill, bits, values};

const KNOWN_BITS: [u32; 4] = [13955037, 2777519, 6928243, 10134186];
const KNOWN_VALUES: [u32; 6] = [0x3dae7af0, 0xbed9a0d8, 0xbf6368f8, 0x3d41a780, 0x3e8040d4, 0x3e519e80];

#[test]
fn bits_are_the_generators() {
    let first: Vec<u32> = bits("head_image_convnext/mlp.fc2.bias", 1).take(4).collect();
    assert_eq!(first, KNOWN_BITS);
}

#[test]
fn values_are_the_generators_to_the_last_bit() {
    let weights = values("module", "blocks.0.attn.proj.weight", &[2, 3], 7);
    assert_eq!(weights.iter().map(|value| value.to_bits()).collect::<Vec<_>>(), KNOWN_VALUES);
}

#[test]
fn rules_follow_key_and_shape() {
    let scale = |key: &str, shape: &[usize]| (Fill::of(key, shape).center, Fill::of(key, shape).scale);
    assert_eq!(scale("a.norm.running_var", &[4]), (1.0, 0.5));
    assert_eq!(scale("a.norm.weight", &[4]), (1.0, 0.2));
    assert_eq!(scale("a.bias", &[4]), (0.0, 0.1));
    assert_eq!(scale("text.text_projection", &[3, 7]), (0.0, 1.0));
    assert_eq!(scale("text_projection.weight", &[7, 3]), (0.0, 1.0));
    assert_eq!(scale("conv.weight", &[9, 3, 2, 2]), (0.0, 0.5));
    assert_eq!(scale("text.token_embedding.weight", &[9, 2]), (0.0, 0.5));
}
