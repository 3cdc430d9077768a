//! Keys and shapes of the networks' tensors, as timm 1.0 and open_clip 3 name them, without classifiers.

use crate::model::Mixer;

/// One tensor of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) shape: Vec<usize>,
    /// A counter, 64-bit integer and zero; everything else is floating point.
    pub(super) counter: bool,
}

/// The tensors of one network, in upstream's order.
#[derive(Debug, Default)]
pub(super) struct Network(pub(in crate::train) Vec<Entry>);

impl Network {
    fn tensor(&mut self, key: String, shape: &[usize]) {
        self.0.push(Entry { key, shape: shape.to_vec(), counter: false });
    }

    /// A weight of any shape with a bias of its first side.
    fn affine(&mut self, key: &str, shape: &[usize]) {
        self.tensor(format!("{key}.weight"), shape);
        self.tensor(format!("{key}.bias"), &shape[..1]);
    }

    fn batch_norm(&mut self, key: &str, width: usize) {
        self.affine(key, &[width]);
        self.tensor(format!("{key}.running_mean"), &[width]);
        self.tensor(format!("{key}.running_var"), &[width]);
        self.0.push(Entry { key: format!("{key}.num_batches_tracked"), shape: Vec::new(), counter: true });
    }

    /// EfficientViT's convolution with batch norm, weight `[out, in per group, k, k]`.
    fn conv_norm(&mut self, key: &str, out: usize, input: usize, kernel: usize) {
        self.tensor(format!("{key}.conv.weight"), &[out, input, kernel, kernel]);
        self.batch_norm(&format!("{key}.norm"), out);
    }

    /// A convolution and the batch norm beside it.
    fn conv_beside_norm(&mut self, conv: &str, norm: &str, out: usize, input: usize, kernel: usize) {
        self.tensor(format!("{conv}.weight"), &[out, input, kernel, kernel]);
        self.batch_norm(norm, out);
    }

    fn fused_mbconv(&mut self, key: &str, out: usize, input: usize, expansion: usize) {
        let middle = input * expansion;
        self.conv_norm(&format!("{key}.main.spatial_conv"), middle, input, 3);
        self.conv_norm(&format!("{key}.main.point_conv"), out, middle, 1);
    }

    fn mbconv(&mut self, key: &str, out: usize, input: usize, expansion: usize) {
        let middle = input * expansion;
        self.affine(&format!("{key}.main.inverted_conv.conv"), &[middle, input, 1, 1]);
        self.affine(&format!("{key}.main.depth_conv.conv"), &[middle, 1, 3, 3]);
        self.conv_norm(&format!("{key}.main.point_conv"), out, middle, 1);
    }

    fn lite_mla(&mut self, key: &str, width: usize, head_dim: usize) {
        self.tensor(format!("{key}.main.qkv.conv.weight"), &[3 * width, width, 1, 1]);
        self.tensor(format!("{key}.main.aggreg.0.0.weight"), &[3 * width, 1, 5, 5]);
        self.tensor(format!("{key}.main.aggreg.0.1.weight"), &[3 * width, head_dim, 1, 1]);
        self.conv_norm(&format!("{key}.main.proj"), width, 2 * width, 1);
    }
}

/// `timm.models.convnext.ConvNeXt`.
pub(super) fn convnext(widths: [usize; 4], depths: [usize; 4]) -> Network {
    let mut net = Network::default();
    net.affine("stem.0", &[widths[0], 3, 4, 4]);
    net.affine("stem.1", &[widths[0]]);
    let mut previous = widths[0];
    for (stage, (width, depth)) in widths.into_iter().zip(depths).enumerate() {
        if stage > 0 {
            net.affine(&format!("stages.{stage}.downsample.0"), &[previous]);
            net.affine(&format!("stages.{stage}.downsample.1"), &[width, previous, 2, 2]);
        }
        for block in 0..depth {
            let key = format!("stages.{stage}.blocks.{block}");
            net.tensor(format!("{key}.gamma"), &[width]);
            net.affine(&format!("{key}.conv_dw"), &[width, 1, 7, 7]);
            net.affine(&format!("{key}.norm"), &[width]);
            net.affine(&format!("{key}.mlp.fc1"), &[4 * width, width]);
            net.affine(&format!("{key}.mlp.fc2"), &[width, 4 * width]);
        }
        previous = width;
    }
    net.affine("head.norm", &[previous]);
    net
}

/// `timm.models.efficientvit_mit.EfficientVitLarge`; `widths` and `depths` start with the stem's. Every stage begins
/// with a downsampling block that its depth does not count.
pub(super) fn efficientvit(widths: [usize; 5], depths: [usize; 5], head_dim: usize) -> Network {
    let [stem, widths @ ..] = widths;
    let [stem_depth, depths @ ..] = depths;
    let mut net = Network::default();
    net.conv_norm("stem.in_conv", stem, 3, 3);
    for block in 0..stem_depth {
        net.conv_norm(&format!("stem.res{block}.main.conv1"), stem, stem, 3);
        net.conv_norm(&format!("stem.res{block}.main.conv2"), stem, stem, 3);
    }
    let mut previous = stem;
    for (stage, (width, depth)) in widths.into_iter().zip(depths).enumerate() {
        for block in 0..=depth {
            let key = format!("stages.{stage}.blocks.{block}");
            match (stage, block) {
                (0 | 1, 0) => net.fused_mbconv(&key, width, previous, 16),
                (0 | 1, _) => net.fused_mbconv(&key, width, width, 4),
                (2, 0) => net.mbconv(&key, width, previous, 16),
                (2, _) => net.mbconv(&key, width, width, 4),
                (_, 0) => net.mbconv(&key, width, previous, 24),
                (_, _) => {
                    net.lite_mla(&format!("{key}.context_module"), width, head_dim);
                    net.mbconv(&format!("{key}.local_module"), width, width, 6);
                }
            }
        }
        previous = width;
    }
    net
}

/// `timm.models.eva.Eva` as EVA02-B configures it, with patches of 14 pixels and a square grid of side `grid`.
pub(super) fn eva02(width: usize, depth: usize, grid: usize) -> Network {
    let hidden = width * 8 / 3;
    let mut net = Network::default();
    net.tensor("cls_token".to_owned(), &[1, 1, width]);
    net.tensor("pos_embed".to_owned(), &[1, grid * grid + 1, width]);
    net.affine("patch_embed.proj", &[width, 3, 14, 14]);
    for block in 0..depth {
        let key = format!("blocks.{block}");
        net.affine(&format!("{key}.norm1"), &[width]);
        net.affine(&format!("{key}.attn.q_proj"), &[width, width]);
        net.tensor(format!("{key}.attn.k_proj.weight"), &[width, width]);
        net.affine(&format!("{key}.attn.v_proj"), &[width, width]);
        net.affine(&format!("{key}.attn.proj"), &[width, width]);
        net.affine(&format!("{key}.norm2"), &[width]);
        net.affine(&format!("{key}.mlp.fc1_g"), &[hidden, width]);
        net.affine(&format!("{key}.mlp.fc1_x"), &[hidden, width]);
        net.affine(&format!("{key}.mlp.norm"), &[hidden]);
        net.affine(&format!("{key}.mlp.fc2"), &[width, hidden]);
    }
    net.affine("fc_norm", &[width]);
    net
}

/// `timm.models.resnet.ResNet` with bottlenecks: `widths` are those inside of them, a quarter of what they give.
pub(super) fn resnet(widths: [usize; 4], depths: [usize; 4]) -> Network {
    let mut net = Network::default();
    net.conv_beside_norm("conv1", "bn1", widths[0], 3, 7);
    let mut previous = widths[0];
    for (layer, (width, depth)) in widths.into_iter().zip(depths).enumerate() {
        for block in 0..depth {
            let key = format!("layer{}.{block}", layer + 1);
            let mut conv = |index: usize, out: usize, input: usize, kernel: usize| {
                net.conv_beside_norm(&format!("{key}.conv{index}"), &format!("{key}.bn{index}"), out, input, kernel);
            };
            conv(1, width, previous, 1);
            conv(2, width, width, 3);
            conv(3, 4 * width, width, 1);
            if block == 0 {
                let downsample = format!("{key}.downsample");
                net.conv_beside_norm(&format!("{downsample}.0"), &format!("{downsample}.1"), 4 * width, previous, 1);
            }
            previous = 4 * width;
        }
    }
    net
}

/// `timm.models.vision_transformer.VisionTransformer` that pools its CLS token, with a square grid of side `grid`.
pub(super) fn vit(width: usize, depth: usize, patch: usize, grid: usize) -> Network {
    let mut net = Network::default();
    net.tensor("cls_token".to_owned(), &[1, 1, width]);
    net.tensor("pos_embed".to_owned(), &[1, grid * grid + 1, width]);
    net.affine("patch_embed.proj", &[width, 3, patch, patch]);
    for block in 0..depth {
        let key = format!("blocks.{block}");
        net.affine(&format!("{key}.norm1"), &[width]);
        net.affine(&format!("{key}.attn.qkv"), &[3 * width, width]);
        net.affine(&format!("{key}.attn.proj"), &[width, width]);
        net.affine(&format!("{key}.norm2"), &[width]);
        net.affine(&format!("{key}.mlp.fc1"), &[4 * width, width]);
        net.affine(&format!("{key}.mlp.fc2"), &[width, 4 * width]);
    }
    net.affine("norm", &[width]);
    net
}

/// open_clip's text tower of CLIP's vocabulary and context, in the plain layout.
pub(super) fn text_tower(width: usize, layers: usize, embedding: usize) -> Network {
    let mut net = Network::default();
    net.tensor("positional_embedding".to_owned(), &[77, width]);
    net.tensor("text_projection".to_owned(), &[width, embedding]);
    net.tensor("token_embedding.weight".to_owned(), &[49408, width]);
    for layer in 0..layers {
        let key = format!("transformer.resblocks.{layer}");
        net.affine(&format!("{key}.ln_1"), &[width]);
        net.tensor(format!("{key}.attn.in_proj_weight"), &[3 * width, width]);
        net.tensor(format!("{key}.attn.in_proj_bias"), &[3 * width]);
        net.affine(&format!("{key}.attn.out_proj"), &[width, width]);
        net.affine(&format!("{key}.ln_2"), &[width]);
        net.affine(&format!("{key}.mlp.c_fc"), &[4 * width, width]);
        net.affine(&format!("{key}.mlp.c_proj"), &[width, 4 * width]);
    }
    net.affine("ln_final", &[width]);
    net
}

/// Adapters, mixer and MLP of one expert, with the temporal module for video.
pub(super) fn head(text: usize, vision: usize, latent: usize, hidden: usize, mixer: Mixer, temporal: bool) -> Network {
    let mut net = Network::default();
    net.affine("prompt_adapter", &[latent, text]);
    net.affine("vision_adapter", &[latent, vision]);
    if temporal {
        net.affine("temporal.conv1", &[vision, vision, 3]);
        net.affine("temporal.conv2", &[vision, vision, 3]);
    }
    let merged = if mixer == Mixer::Concat { 2 * latent } else { latent };
    net.affine("mlp.fc1", &[hidden, merged]);
    net.affine("mlp.fc2", &[1, hidden]);
    net
}
