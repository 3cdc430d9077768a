//! The CUDA kernels of `src/native/kernels.cu` and its further parts, run on the processor thread by thread (`emulate.cpp`),
//! against libtorch's operations in f32: what they compute and where they write, at sizes that leave threads over. How they
//! are asked for is tested on a GPU (`deploy/gpu/check.sh kernels`), but for how many blocks and how much shared memory,
//! which is the programs' own code.

#[path = "../../src/native/kernels/tiles.rs"]
mod tiles;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};

use self::tiles::{CONVOLUTIONS, Held};

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);
/// Sums in another order are rounded to another bf16 now and then, 2^-8 away; if all numbers were, the gap would be 2e-3.
const ROUNDED: f64 = 3e-4;

/// What a kernel is given.
enum Argument<'a> {
    Number(i64),
    Float(f64),
    None,
    Read(&'a Tensor),
    /// Read, and written over.
    InPlace(&'a Tensor),
    /// Written, of this shape in bf16.
    Written(&'a [i64]),
}
use Argument::{Float, InPlace, Number, Read, Written};

/// What the kernel has written.
fn run(kernel: &str, blocks: i64, threads: u32, arguments: &[Argument]) -> Tensor {
    run_shared(kernel, blocks, threads, 0, arguments)
}

/// With so many bytes of shared memory a block.
fn run_shared(kernel: &str, blocks: i64, threads: u32, shared: u32, arguments: &[Argument]) -> Tensor {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("output");
    let mut shape = Vec::new();
    let mut words = vec![kernel.to_owned(), blocks.to_string(), threads.to_string(), shared.to_string()];
    for (index, argument) in arguments.iter().enumerate() {
        words.push(match argument {
            Number(number) => format!("i:{number}"),
            Float(number) => format!("f:{number:e}"),
            Argument::None => "i:0".to_owned(),
            Read(tensor) => {
                let file = directory.path().join(index.to_string());
                std::fs::write(&file, bytes(tensor)).unwrap();
                format!("r:{}", file.display())
            }
            InPlace(tensor) => {
                shape = tensor.size();
                std::fs::write(&output, bytes(tensor)).unwrap();
                format!("w:{}", output.display())
            }
            Written(size) => {
                shape = size.to_vec();
                format!("w:{}:{}", output.display(), 2 * size.iter().product::<i64>())
            }
        });
    }
    let status = Command::new(emulator()).args(&words).status().unwrap();
    assert!(status.success(), "{words:?}");
    let written = std::fs::read(&output).unwrap();
    Tensor::from_data_size(&written, &shape, Kind::BFloat16).to_kind(Kind::Float)
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    let count = tensor.numel();
    tensor.contiguous().copy_data_u8(&mut bytes, count);
    bytes
}

/// The compiled emulator.
fn emulator() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels/emulate.cpp");
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulate");
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        let options = ["-std=c++20", "-O2", "-w", "-pthread", "-o"];
        let status = Command::new(compiler).args(options).arg(&program).arg(source).status().unwrap();
        assert!(status.success());
        program
    })
}

/// Random numbers in bf16.
fn bf16(shape: &[i64]) -> Tensor {
    Tensor::randn(shape, CPU).to_kind(Kind::BFloat16)
}

fn f32(tensor: &Tensor) -> Tensor {
    tensor.to_kind(Kind::Float)
}

#[track_caller]
fn assert_close(got: &Tensor, expected: &Tensor) {
    assert_eq!(got.size(), expected.size());
    let expected = &f32(&expected.to_kind(Kind::BFloat16));
    let gap = (got - expected).norm().double_value(&[]) / expected.norm().double_value(&[]);
    // Not a number is no small gap.
    assert!(gap < ROUNDED, "{gap}");
}

#[test]
fn rows_are_normed() {
    tch::manual_seed(1);
    let cases = [
        ("norm_4_3", 4, 96),
        ("norm_4_3", 4, 40),
        ("norm_8_3", 8, 192),
        ("norm_16_3", 16, 384),
        ("norm_32_3", 32, 768),
        ("norm_32_8", 32, 1280),
        ("norm_32_8", 32, 2048),
    ];
    for (kernel, lanes, width) in cases {
        let rows = 37;
        let (x, weight, bias) = (bf16(&[rows, width]), bf16(&[width]), bf16(&[width]));
        let pending = Tensor::randn([width], CPU);
        let blocks = (rows - 1) / (256 / lanes) + 1;
        for pending in [Some(&pending), None] {
            let shift = pending.map_or(Argument::None, Read);
            let got = run(
                kernel,
                blocks,
                256,
                &[
                    Read(&x),
                    shift,
                    Read(&weight),
                    Read(&bias),
                    Written(&[rows, width]),
                    Number(rows),
                    Number(width),
                    Float(1e-6),
                ],
            );
            let x = pending.map_or_else(|| f32(&x), |pending| f32(&x) + pending);
            assert_close(&got, &x.layer_norm([width], Some(&f32(&weight)), Some(&f32(&bias)), 1e-6, false));
        }
    }
}

#[test]
fn gated_rows_are_normed() {
    tch::manual_seed(2);
    let (rows, width) = (9, 2048);
    let (x, weight, bias) = (bf16(&[rows, 2 * width]), bf16(&[width]), bf16(&[width]));
    let arguments = [
        Read(&x),
        Argument::None,
        Read(&weight),
        Read(&bias),
        Written(&[rows, width]),
        Number(rows),
        Number(width),
        Float(1e-6),
    ];
    let got = run("swiglu_norm_32_8", 2, 256, &arguments);
    let parts = f32(&x).chunk(2, -1);
    let hidden = parts[0].silu() * &parts[1];
    assert_close(&got, &hidden.layer_norm([width], Some(&f32(&weight)), Some(&f32(&bias)), 1e-6, false));
}

#[test]
fn bytes_are_normalised() {
    tch::manual_seed(3);
    let (mean, std) = ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]);
    let x = Tensor::randint(256, [2, 4, 4, 3], (Kind::Uint8, Device::Cpu));
    let packs = x.numel() as i64 / 8;
    let mut arguments = vec![Read(&x), Written(&[2, 4, 4, 3]), Number(packs)];
    arguments.extend(mean.into_iter().chain(std).map(Float));
    let got = run("normalise", 1, 256, &arguments);
    let expected = (f32(&x) / 255.0 - Tensor::from_slice(&mean)) / Tensor::from_slice(&std);
    assert_eq!(got, expected.to_kind(Kind::Float).to_kind(Kind::BFloat16).to_kind(Kind::Float));
}

#[test]
fn a_layer_is_finished() {
    tch::manual_seed(4);
    let (x, bias, shortcut) = (bf16(&[33, 24]), bf16(&[24]), bf16(&[33, 24]));
    let sum = f32(&x) + f32(&bias);
    let functions = [sum.shallow_clone(), sum.gelu("tanh")];
    for (pointwise, expected) in functions.iter().enumerate() {
        let pointwise = Number(pointwise as i64);
        let got =
            run("finish", 1, 256, &[InPlace(&x), Read(&bias), Read(&shortcut), Number(99), Number(24), pointwise]);
        assert_close(&got, &(expected + f32(&shortcut)));
    }
    let got = run("finish", 1, 256, &[InPlace(&x), Argument::None, Argument::None, Number(99), Number(24), Number(0)]);
    assert_eq!(got, f32(&x));
}

#[test]
fn queries_and_keys_are_rotated_and_values_are_not() {
    tch::manual_seed(5);
    let (batch, tokens, heads) = (2, 5, 3);
    let x = bf16(&[batch, tokens, 3, heads, 64]);
    let (cos, sin) = (Tensor::randn([tokens, 32], CPU), Tensor::randn([tokens, 32], CPU));
    let tables = (Tensor::cat(&[&cos, &cos], 1), Tensor::cat(&[&-&sin, &sin], 1));
    let count = batch * tokens * heads * 8;
    let arguments = [InPlace(&x), Read(&tables.0), Read(&tables.1), Number(count), Number(tokens), Number(heads)];
    let got = run("rotate", (count - 1) / 256 + 1, 256, &arguments);
    let halves = f32(&x).narrow(2, 0, 2).chunk(2, -1);
    let (cos, sin) = (cos.view([tokens, 1, 1, 32]), sin.view([tokens, 1, 1, 32]));
    let rotated = [&halves[0] * &cos - &halves[1] * &sin, &halves[1] * &cos + &halves[0] * &sin];
    assert_close(&got.narrow(2, 0, 2), &Tensor::cat(&rotated, -1));
    assert_eq!(got.select(2, 2), f32(&x.select(2, 2)));
}

#[test]
fn the_function_has_no_least_and_no_largest_argument() {
    let x = Tensor::from_slice(&[
        -1e4f32, 1e4, -20.0, 20.0, -3.0, 3.0, -0.0, 0.0, -1e30, 1e30, 1e-30, -1e-30, 1.0, -1.0, 0.5, 2.0,
    ]);
    let x = x.to_kind(Kind::BFloat16);
    let got = run("finish", 1, 256, &[InPlace(&x), Argument::None, Argument::None, Number(2), Number(16), Number(1)]);
    let x = x.to_kind(Kind::Double);
    // In f64, as 1 + tanh(u) has no more digits in f32 where u is far below 0.
    let u = (&x + x.pow_tensor_scalar(3) * 0.044_715) * (2.0 / std::f64::consts::PI).sqrt();
    let expected = &x * (u * 2.0).sigmoid();
    let close = (got.to_kind(Kind::Double) - &expected).abs().le_tensor(&(expected.abs() * 5e-3 + 1e-37));
    assert!(bool::try_from(close.all()).unwrap(), "{got} {expected}");
}

#[test]
fn channels_are_convolved_one_by_one() {
    tch::manual_seed(6);
    let cases =
        [(9, 16, 32), (14, 14, 96), (5, 3, 64), (5, 50, 32), (22, 28, 32), (4, 100, 32), (50, 6, 32), (20, 36, 64)];
    let mut powers = [BTreeSet::new(), BTreeSet::new()];
    for known in CONVOLUTIONS {
        let (size, stride) = (known.size, known.stride);
        for (case, &(height, width, channels)) in cases.iter().enumerate() {
            let (x, bias) = (bf16(&[3, height, width, channels]), bf16(&[channels]));
            let weight = Tensor::randn([size, size, channels], CPU);
            // ConvNeXt's alone takes what pixels lack.
            let pending = (size == 7 && case % 2 == 0).then(|| Tensor::randn([channels], CPU));
            let bias = (case % 3 != 1).then_some(bias);
            let (tall, wide) = ((height - 1) / stride + 1, (width - 1) / stride + 1);
            let slabs = known.slabs(3, tall, wide, channels);
            let shape = [3, tall, wide, channels];
            let pointwise = i64::from(case % 4 < 2);
            let mut arguments = vec![
                Read(&x),
                pending.as_ref().map_or(Argument::None, Read),
                Read(&weight),
                bias.as_ref().map_or(Argument::None, Read),
                Written(&shape),
            ];
            let numbers = [slabs.count, height, width, channels / 2, tall, wide];
            arguments.extend(numbers.map(Number));
            arguments.extend([slabs.across.into(), slabs.down.into(), pointwise].map(Number));
            powers[0].insert(slabs.across);
            powers[1].insert(slabs.down);
            let name = known.name.to_str().unwrap();
            let got = run_shared(name, slabs.blocks, tiles::THREADS, slabs.shared, &arguments);
            let x = f32(&x) + pending.unwrap_or_else(|| Tensor::zeros([channels], CPU));
            let weight = weight.permute([2, 0, 1]).unsqueeze(1);
            let padding = [size / 2; 2];
            let bias = bias.map(|bias| f32(&bias));
            let x = x.permute([0, 3, 1, 2]);
            let y = x.conv2d(&weight, bias.as_ref(), [stride; 2], padding, [1, 1], channels);
            let y = if pointwise == 1 { y.gelu("tanh") } else { y };
            assert_close(&got, &y.permute([0, 2, 3, 1]));
        }
    }
    // Slabs of all widths and heights.
    assert!(powers.iter().all(|powers| powers.iter().eq(&[0, 1, 2, 3])), "{powers:?}");
}

#[test]
fn heads_attend_linearly() {
    tch::manual_seed(7);
    let (batch, heads) = (2, 2);
    for tokens in [1, 7, 49, 64, 196, 300] {
        let scales = [bf16(&[batch, tokens, heads * 96]), bf16(&[batch, tokens, heads * 96])];
        let shape = [batch, tokens, 2 * heads * 32];
        let held = Held::of(tokens);
        let arguments = [
            Read(&scales[0]),
            Read(&scales[1]),
            Written(&shape),
            Number(tokens),
            Number(heads),
            Number(held.tokens),
            Float(1e-5),
        ];
        let got = run_shared("linear_attention", batch * 2 * heads, tiles::THREADS, held.shared, &arguments);
        let all = f32(&Tensor::cat(&scales, -1)).view([batch, tokens, 2 * heads, 96]).transpose(1, 2);
        let parts = all.chunk(3, -1);
        let (q, k) = (parts[0].relu(), parts[1].relu());
        let total = k.sum_dim_intlist([2].as_slice(), true, Kind::Float).transpose(-2, -1);
        let y = q.matmul(&k.transpose(-2, -1).matmul(&parts[2])) / (q.matmul(&total) + 1e-5);
        assert_close(&got, &y.transpose(1, 2).reshape(shape));
    }
}

#[test]
fn what_attends_and_is_no_number_gives_none() {
    // As a query's channel, and as a key's.
    for channel in [3, 40] {
        let (tokens, scales) = (7, [bf16(&[1, 7, 96]), bf16(&[1, 7, 96])]);
        let _ = scales[1].get(0).get(2).get(channel).fill_(f64::NAN);
        let (held, shape) = (Held::of(tokens), [1, tokens, 64]);
        let arguments = [
            Read(&scales[0]),
            Read(&scales[1]),
            Written(&shape),
            Number(tokens),
            Number(1),
            Number(held.tokens),
            Float(1e-5),
        ];
        let got = run_shared("linear_attention", 2, tiles::THREADS, held.shared, &arguments);
        let is_none = got.isnan().view([tokens, 2, 32]).all_dim(-1, false);
        let expected = Tensor::zeros([tokens, 2], (Kind::Bool, Device::Cpu));
        // A query is one token's, a key every token's.
        let tokens = if channel < 32 { expected.narrow(0, 2, 1) } else { expected.shallow_clone() };
        let _ = tokens.narrow(1, 1, 1).fill_(1);
        assert_eq!(is_none, expected, "channel {channel}");
    }
}
