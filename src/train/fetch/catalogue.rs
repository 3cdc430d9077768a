//! The public checkpoints that the paper's ensemble is made of, and text towers to compare.

use crate::model::{Activation, BackboneKind, Mixer};
use crate::train::convert::Part;

/// One model on the hub.
#[derive(Debug, PartialEq)]
pub struct Model {
    /// What it is called here: on the command line, in files and in settings.
    pub name: &'static str,
    pub(super) repository: &'static str,
    /// Names that its weights may have there; the first that is there is taken.
    pub(super) files: &'static [&'static str],
    pub(super) role: Role,
    pub(super) licence: Licence,
    /// Whether the paper has it.
    pub(super) default: bool,
}

/// What a model is used as.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Role {
    /// Text tower with this activation in its MLPs.
    Text(Activation),
    /// Vision backbone, and how the paper merges what it sees with the prompt (Tables 4 to 6).
    Backbone(BackboneKind, Mixer),
}

impl Role {
    pub(super) fn part(self) -> Part {
        match self {
            Self::Text(_) => Part::TextTower,
            Self::Backbone(kind, _) => Part::Backbone(kind),
        }
    }
}

/// Under what terms a model's weights may be used, as far as is known here. The hub's own word is asked as well.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Licence {
    /// An open one, by the hub's name of it.
    Open(&'static str),
    /// One that restricts use, to be read and accepted.
    Restricted,
}

const TIMM_FILES: &[&str] = &["model.safetensors", "pytorch_model.bin"];
const OPEN_CLIP_FILES: &[&str] = &["open_clip_model.safetensors", "open_clip_pytorch_model.bin"];

const fn backbone(
    name: &'static str,
    repository: &'static str,
    kind: BackboneKind,
    mixer: Mixer,
    licence: &'static str,
) -> Model {
    let (role, licence) = (Role::Backbone(kind, mixer), Licence::Open(licence));
    Model { name, repository, files: TIMM_FILES, role, licence, default: true }
}

const fn eva(name: &'static str, repository: &'static str, default: bool) -> Model {
    let (role, licence) = (Role::Text(Activation::Gelu), Licence::Open("mit"));
    Model { name, repository, files: OPEN_CLIP_FILES, role, licence, default }
}

/// Every model, text towers in the order in which their embeddings are put together.
pub(super) const MODELS: &[Model] = &[
    Model {
        name: "dfn5b-vit-h-14",
        repository: "apple/DFN5B-CLIP-ViT-H-14",
        files: OPEN_CLIP_FILES,
        role: Role::Text(Activation::QuickGelu),
        licence: Licence::Restricted,
        default: true,
    },
    eva("eva02-e-14-plus", "timm/eva02_enormous_patch14_plus_clip_224.laion2b_s9b_b144k", true),
    eva("eva02-e-14", "timm/eva02_enormous_patch14_clip_224.laion2b_s4b_b115k", false),
    eva("eva02-l-14", "timm/eva02_large_patch14_clip_224.merged2b_s4b_b131k", false),
    eva("eva02-l-14-336", "timm/eva02_large_patch14_clip_336.merged2b_s6b_b61k", false),
    eva("eva02-b-16", "timm/eva02_base_patch16_clip_224.merged2b_s8b_b131k", false),
    backbone(
        "convnext-small",
        "timm/convnext_small.fb_in22k_ft_in1k_384",
        BackboneKind::Convnext,
        Mixer::Concat,
        "apache-2.0",
    ),
    backbone("efficientvit-l2", "timm/efficientvit_l2.r384_in1k", BackboneKind::Efficientvit, Mixer::Dot, "apache-2.0"),
    backbone(
        "eva02-base",
        "timm/eva02_base_patch14_448.mim_in22k_ft_in22k_in1k",
        BackboneKind::Eva02,
        Mixer::Dot,
        "mit",
    ),
];

/// All of `MODELS`, for people. Paragraphs are one line each: clap wraps them to the terminal.
pub const HELP: &str = "\
Models (* without a choice: the paper's):

    text towers
    * dfn5b-vit-h-14   apple/DFN5B-CLIP-ViT-H-14                                       restricted, to be accepted
    * eva02-e-14-plus  timm/eva02_enormous_patch14_plus_clip_224.laion2b_s9b_b144k     mit
      eva02-e-14       timm/eva02_enormous_patch14_clip_224.laion2b_s4b_b115k          mit
      eva02-l-14       timm/eva02_large_patch14_clip_224.merged2b_s4b_b131k            mit
      eva02-l-14-336   timm/eva02_large_patch14_clip_336.merged2b_s6b_b61k             mit
      eva02-b-16       timm/eva02_base_patch16_clip_224.merged2b_s8b_b131k             mit
    backbones
    * convnext-small   timm/convnext_small.fb_in22k_ft_in1k_384                        apache-2.0
    * efficientvit-l2  timm/efficientvit_l2.r384_in1k                                  apache-2.0
    * eva02-base       timm/eva02_base_patch14_448.mim_in22k_ft_in22k_in1k             mit

FOLDER gets one safetensors per model (of a CLIP model its text tower alone), CLIP's tokenizer.json, run.toml for \
`pcqa-train fit`, and fetched.toml: what came from where, with commits and digests. With that file in place the same \
command fetches the same bytes again, and goes on where it was interrupted.

Environment: HF_ENDPOINT (a mirror), HF_TOKEN, HF_TOKEN_PATH or the token that `hf auth login` keeps in HF_HOME, \
HF_HUB_CACHE, HTTPS_PROXY.";

/// The model called `name`.
///
/// # Errors
///
/// Names all that there are.
pub(super) fn find(name: &str) -> anyhow::Result<&'static Model> {
    MODELS.iter().find(|model| model.name == name).ok_or_else(|| {
        let known: Vec<&str> = MODELS.iter().map(|model| model.name).collect();
        anyhow::anyhow!("expected one of {}", known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_has_every_model_as_it_is() {
        for model in MODELS {
            let licence = match model.licence {
                Licence::Open(name) => name,
                Licence::Restricted => "restricted, to be accepted",
            };
            let star = if model.default { "*" } else { " " };
            let line = format!("    {star} {:<17}{:<64}{licence}\n", model.name, model.repository);
            assert!(HELP.contains(&line), "{line}");
        }
    }
}
