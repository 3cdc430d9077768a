//! The bundle that is compiled into the binaries, so that they can be tried without one. `make train-demo` made its files
//! from nothing; `demo/MODEL_CARD.md` says how good a judge it is.

macro_rules! embedded {
    ($($name:literal),+ $(,)?) => { &[$(($name, include_bytes!(concat!("demo/", $name)) as &[u8])),+] };
}

/// The manifest.
pub(super) const MANIFEST: &str = include_str!("demo/bundle.toml");

/// Every other file.
pub(super) const FILES: &[(&str, &[u8])] = embedded![
    "backbone_image_convnext.safetensors",
    "backbone_image_efficientvit.safetensors",
    "backbone_image_eva02.safetensors",
    "backbone_video_convnext.safetensors",
    "backbone_video_efficientvit.safetensors",
    "head_image_convnext.safetensors",
    "head_image_efficientvit.safetensors",
    "head_image_eva02.safetensors",
    "head_video_convnext.safetensors",
    "head_video_efficientvit.safetensors",
    "text_eva.safetensors",
    "text_openclip.safetensors",
    "tokenizer.json",
];

/// CLIP's tokenizer, which a generated bundle needs as well.
pub(crate) const TOKENIZER: &[u8] = include_bytes!("demo/tokenizer.json");
