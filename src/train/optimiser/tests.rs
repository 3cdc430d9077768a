use super::*;

const RATE: f64 = 0.1;

fn leaf(values: &[f32]) -> Tensor {
    Tensor::from_slice(values).set_requires_grad(true)
}

/// More numbers than a share has, so that pieces and shares meet.
fn long(scale: f32) -> Vec<f32> {
    (0..SHARE + 1003).map(|i| scale * ((i * 2_654_435_761) % 1000 - 500) as f32 / 500.0).collect()
}

fn optimiser(parameters: &[(&str, &Tensor)]) -> AdamW {
    let parameters = parameters.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.shallow_clone()));
    AdamW::new(parameters, Options::default()).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.detach().reshape([-1])).unwrap()
}

/// The paper's algorithm 2, one number at a time in f64.
struct Reference {
    value: f64,
    mean: f64,
    square: f64,
}

impl Reference {
    fn step(&mut self, step: i32, gradient: f64) {
        let Options { beta1, beta2, eps, weight_decay } = Options::default();
        self.mean = beta1 * self.mean + (1.0 - beta1) * gradient;
        self.square = beta2 * self.square + (1.0 - beta2) * gradient * gradient;
        let (mean, square) = (self.mean / (1.0 - beta1.powi(step)), self.square / (1.0 - beta2.powi(step)));
        self.value -= RATE * (mean / (square.sqrt() + eps) + weight_decay * self.value);
    }
}

#[test]
fn steps_are_the_papers() {
    let (start, slope) = (long(1.0), long(3.0));
    let parameter = leaf(&start);
    let mut adamw = optimiser(&[("a", &parameter)]);
    let factor = Tensor::from_slice(&slope);
    let mut reference: Vec<Reference> =
        start.iter().map(|&value| Reference { value: f64::from(value), mean: 0.0, square: 0.0 }).collect();
    for step in 1..=4 {
        // The gradient is slope * 2 value.
        adamw.backward(&(parameter.square() * &factor).sum(Kind::Float)).unwrap();
        adamw.step(RATE, 0.5).unwrap();
        for (number, &slope) in reference.iter_mut().zip(&slope) {
            number.step(step, f64::from(slope) * number.value);
        }
    }
    let differences = numbers(&parameter).into_iter().zip(&reference).map(|(a, b)| (f64::from(a) - b.value).abs());
    let worst = differences.fold(0.0, f64::max);
    assert!(worst < 1e-5, "{worst}");
}

/// libtorch has its fused step for the CPU too, where it is not used.
#[test]
fn a_gpu_takes_the_same_steps() {
    let start = [long(1.0), long(-2.0)];
    let walk = |on_gpu: bool| {
        let leaves = start.each_ref().map(|values| leaf(values));
        let mut optimiser = optimiser(&[("a", &leaves[0]), ("b", &leaves[1])]);
        optimiser.on_gpu = on_gpu;
        let mut norms = Vec::new();
        for step in 1..4 {
            let loss = (leaves[0].sin() * f64::from(step) + leaves[1].square()).sum(Kind::Float);
            optimiser.backward(&loss).unwrap();
            norms.push(optimiser.gradient_norm().unwrap());
            optimiser.step(RATE, 0.25).unwrap();
        }
        (leaves.map(|leaf| leaf.detach()), norms)
    };
    let ((here, norms), (there, fused)) = (walk(false), walk(true));
    for (a, b) in norms.iter().zip(&fused) {
        assert!((a / b - 1.0).abs() < 1e-6, "{a} and {b}");
    }
    for (a, b) in here.iter().zip(&there) {
        let gap = (a - b).abs().max().double_value(&[]);
        assert!(gap < 1e-5, "{gap}");
    }
}

/// To the bit: the demo's weights are made with one thread and found again with any number.
#[test]
fn steps_do_not_depend_on_threads_or_pieces() {
    let steps = |threads: usize| {
        let parameter = leaf(&long(1.0));
        let mut adamw = optimiser(&[("a", &parameter)]);
        adamw.threads = (threads > 1).then(|| ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
        for step in 1..=3 {
            adamw.backward(&(parameter.square() * f64::from(step)).sum(Kind::Float)).unwrap();
            adamw.step(RATE, 0.3).unwrap();
        }
        (numbers(&parameter), adamw.serialise().unwrap())
    };
    let (alone, shared) = (steps(1), steps(3));
    assert!(alone.0 == shared.0 && alone.1 == shared.1);

    // The same operations on the whole tensor at once.
    let _no_grad = tch::no_grad_guard();
    let whole = leaf(&long(1.0)).detach();
    let (mean, square) = (whole.zeros_like(), whole.zeros_like());
    for step in 1..=3 {
        let gradient = &whole * 2.0 * f64::from(step);
        let of = |tensor: &Tensor| tensor.shallow_clone();
        Update::new(Options::default(), step as u64, RATE, 0.3)
            .apply_to(of(&whole), of(&mean), of(&square), &gradient)
            .unwrap();
    }
    assert!(alone.0 == numbers(&whole));
}

#[test]
fn parts_of_a_batch_add_up_and_are_gone_after_the_step() {
    let (whole, parts) = (leaf(&[1.0, -2.0]), leaf(&[1.0, -2.0]));
    let (mut at_once, mut one_by_one) = (optimiser(&[("a", &whole)]), optimiser(&[("a", &parts)]));
    at_once.backward(&(&whole * 3.0).sum(Kind::Float)).unwrap();
    one_by_one.backward(&parts.sum(Kind::Float)).unwrap();
    one_by_one.backward(&(&parts * 2.0).sum(Kind::Float)).unwrap();
    assert_eq!(one_by_one.gradient_norm().unwrap(), at_once.gradient_norm().unwrap());
    assert_eq!(numbers(one_by_one.gradient("a").unwrap()), [3.0, 3.0]);
    at_once.step(RATE, 1.0).unwrap();
    one_by_one.step(RATE, 1.0).unwrap();
    assert_eq!(numbers(&whole), numbers(&parts));
    assert_eq!(one_by_one.gradient_norm().unwrap(), 0.0);
    one_by_one.step(RATE, 1.0).unwrap();
    assert_eq!(numbers(&whole), numbers(&parts));
}

#[test]
fn parameters_that_share_a_gradient_are_scaled_once() {
    for on_gpu in [false, true] {
        let (a, b) = (leaf(&[1.0]), leaf(&[1.0]));
        let mut adamw = optimiser(&[("a", &a), ("b", &b)]);
        adamw.on_gpu = on_gpu;
        adamw.backward(&(&a + &b).sum(Kind::Float)).unwrap();
        assert!((adamw.gradient_norm().unwrap() - 2.0f64.sqrt()).abs() < 1e-6);
        adamw.step(RATE, 0.5).unwrap();
        assert_eq!(numbers(&a), numbers(&b));
        let means = adamw.slots.iter().map(|slot| numbers(&slot.mean)[0]);
        assert!(means.into_iter().all(|mean| (mean - 0.05).abs() < 1e-7));
    }
}

#[test]
fn clipping_only_shortens() {
    assert_eq!(clipping(0.5, 1.0), 1.0);
    assert!((clipping(4.0, 1.0) - 0.25).abs() < 1e-6);
    assert_eq!(clipping(0.0, 1.0), 1.0);
}

#[test]
fn what_overflows_shows_in_the_norm() {
    let a = leaf(&[1.0, 2.0]);
    let mut adamw = optimiser(&[("a", &a)]);
    adamw.backward(&(&a * f64::INFINITY).sum(Kind::Float)).unwrap();
    assert!(!adamw.gradient_norm().unwrap().is_finite());
    adamw.discard();
    adamw.step(RATE, 1.0).unwrap();
    assert_eq!(numbers(&a), [1.0, 2.0]);
}

#[test]
fn a_restored_optimiser_goes_on_as_if_nothing_had_been() {
    let (a, b) = (leaf(&long(1.0)), leaf(&[4.0]));
    let step = |adamw: &mut AdamW, a: &Tensor, b: &Tensor| {
        adamw.backward(&(a.square() * b).sum(Kind::Float)).unwrap();
        adamw.step(RATE, 1.0).unwrap();
    };
    let mut first = optimiser(&[("a", &a), ("b", &b)]);
    first.steps = (1 << 30) + 5;
    step(&mut first, &a, &b);
    let state = first.serialise().unwrap();
    let (c, d) = (leaf(&numbers(&a)), leaf(&numbers(&b)));
    let mut second = optimiser(&[("a", &c), ("b", &d)]);
    second.restore("state", &state).unwrap();
    assert_eq!(second.steps(), first.steps());
    step(&mut first, &a, &b);
    step(&mut second, &c, &d);
    assert_eq!((numbers(&a), numbers(&b)), (numbers(&c), numbers(&d)));
    assert_eq!(first.serialise().unwrap(), second.serialise().unwrap());
}

#[test]
fn state_of_other_parameters_is_refused_with_its_name() {
    let (a, b, wide) = (leaf(&[1.0]), leaf(&[1.0]), leaf(&[1.0, 2.0]));
    let state = optimiser(&[("a", &a), ("b", &b)]).serialise().unwrap();
    let error = |parameters: &[(&str, &Tensor)], bytes: &[u8]| {
        format!("{:#}", optimiser(parameters).restore("optimiser.safetensors", bytes).unwrap_err())
    };
    assert_eq!(error(&[("a", &a)], &state), "optimiser.safetensors: tensor b.exp_avg: belongs to no parameter");
    assert_eq!(error(&[("a", &a), ("c", &b)], &state), "optimiser.safetensors: tensor c.exp_avg: is missing");
    let shape = "optimiser.safetensors: tensor a.exp_avg: has shape [1], expected [2]";
    assert_eq!(error(&[("a", &wide), ("b", &b)], &state), shape);
    assert!(error(&[("a", &a)], b"no").starts_with("optimiser.safetensors: not a safetensors file"));
}
