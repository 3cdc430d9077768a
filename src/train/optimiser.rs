//! AdamW: "Decoupled Weight Decay Regularization", <https://arxiv.org/abs/1711.05101>; `torch.optim.AdamW`, with
//! gradients clipped by their global norm (`torch.nn.utils.clip_grad_norm_`).
//!
//! Weight decay applies to every parameter, norms and biases too: what the paper's settings mean in PyTorch when nothing
//! else is said. On a GPU a step is libtorch's fused one. On the CPU every operation goes over a piece of a tensor that
//! stays in its core's cache, so that a step reads and writes memory once, and cores take pieces of their own, so that
//! they meet once a step instead of after every operation. What comes out does not depend on how many there are.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use tch::{Device, Kind, Tensor};

use crate::model::serialise;
use crate::native::{self, AdamWStep};

/// Numbers of a piece: the six that a step handles at once fill 768 KiB, and libtorch shares no operation on so few among
/// threads. Of half as many, calls cost more than the nearer cache saves.
const PIECE: i64 = 1 << 15;
/// Numbers that a core takes at once.
const SHARE: i64 = 1 << 20;
/// Where the number of steps stands among the state's tensors.
const STEPS: &str = "steps";
/// The number of steps is stored as two digits of so many bits, which are exact in f32.
const DIGIT: u32 = 24;

/// What AdamW is told once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Decay of the running mean of gradients.
    pub beta1: f64,
    /// Decay of the running mean of their squares.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Share of a parameter that goes away with each step, times the learning rate.
    pub weight_decay: f64,
}

impl Default for Options {
    /// torch's defaults.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-2 }
    }
}

/// What gradients of global norm `norm` are multiplied by so that it is at most `max_norm`.
pub fn clipping(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

/// AdamW over the parameters of one or more networks. It collects their gradients as well, instead of leaving them with
/// the parameters as `Tensor::backward` does: they are then gone after each step without having to be set to zero.
///
/// ```text
/// for part of the batch: optimiser.backward(&(loss(part) * share))
/// optimiser.step(learning_rate, clipping(optimiser.gradient_norm(), 1.0))
/// ```
pub struct AdamW {
    options: Options,
    slots: Vec<Slot>,
    steps: u64,
    /// As many threads as libtorch computes with; None where that is one, or where the parameters are on a GPU.
    threads: Option<ThreadPool>,
    on_gpu: bool,
}

/// One parameter with its running means.
struct Slot {
    name: String,
    parameter: Tensor,
    mean: Tensor,
    square: Tensor,
    gradient: Option<Tensor>,
}

impl AdamW {
    /// For `parameters` by distinct names, f32 leaves that require a gradient.
    pub fn new(parameters: impl IntoIterator<Item = (String, Tensor)>, options: Options) -> anyhow::Result<Self> {
        let _no_grad = tch::no_grad_guard();
        let mut slots: Vec<Slot> = Vec::new();
        for (name, parameter) in parameters {
            ensure!(slots.iter().all(|slot| slot.name != name), "parameter {name}: is there twice");
            ensure!(parameter.kind() == Kind::Float && parameter.is_contiguous(), "parameter {name}: is not plain f32");
            let (mean, square) = (parameter.f_zeros_like()?, parameter.f_zeros_like()?);
            slots.push(Slot { name, parameter, mean, square, gradient: None });
        }
        let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1);
        let is_shared = threads > 1 && slots.iter().all(|slot| slot.parameter.device() == Device::Cpu);
        let pool = || ThreadPoolBuilder::new().num_threads(threads).build();
        let threads = is_shared.then(pool).transpose().context("the optimiser's threads cannot be started")?;
        let on_gpu = !slots.is_empty() && slots.iter().all(|slot| slot.parameter.device().is_cuda());
        Ok(Self { options, slots, steps: 0, threads, on_gpu })
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Adds the gradients of the scalar `loss` to those that wait for the next step. A parameter that `loss` does not
    /// depend on has none.
    pub fn backward(&mut self, loss: &Tensor) -> anyhow::Result<()> {
        let parameters: Vec<&Tensor> = self.slots.iter().map(|slot| &slot.parameter).collect();
        let gradients = Tensor::f_run_backward(&[loss], &parameters, false, false)?;
        for (slot, gradient) in self.slots.iter_mut().zip(gradients) {
            if gradient.defined() {
                // Not in place: two parameters may share what autograd gave.
                slot.gradient = Some(match slot.gradient.take() {
                    Some(sum) => sum.f_add(&gradient)?,
                    None => gradient,
                });
            }
        }
        Ok(())
    }

    /// Forgets the gradients that wait.
    pub fn discard(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.gradient = None);
    }

    /// The gradient that waits for `name`'s next step.
    pub fn gradient(&self, name: &str) -> Option<&Tensor> {
        self.slots.iter().find(|slot| slot.name == name)?.gradient.as_ref()
    }

    /// The global norm of the gradients that wait: not a finite number where one of them has overflowed.
    pub fn gradient_norm(&self) -> anyhow::Result<f64> {
        let _no_grad = tch::no_grad_guard();
        let gradients = self.slots.iter().filter_map(|slot| slot.gradient.as_ref());
        if self.on_gpu {
            let gradients: Vec<&Tensor> = gradients.collect();
            return if gradients.is_empty() { Ok(0.0) } else { Ok(native::norm(&gradients)?) };
        }
        let norms = gradients.map(Tensor::f_norm);
        let norms = norms.collect::<Result<Vec<_>, _>>()?;
        if norms.is_empty() {
            return Ok(0.0);
        }
        let norms = Tensor::f_stack(&norms, 0)?.f_to_kind(Kind::Double)?.f_to_device(Device::Cpu)?;
        let norms = Vec::<f64>::try_from(norms)?;
        Ok(norms.iter().map(|norm| norm * norm).sum::<f64>().sqrt())
    }

    /// One step with the gradients of the losses since the last one, multiplied by `factor` ([`clipping`], and one over
    /// what the losses were multiplied by). Parameters without a gradient stay as they are.
    pub fn step(&mut self, learning_rate: f64, factor: f64) -> anyhow::Result<()> {
        let _no_grad = tch::no_grad_guard();
        self.steps += 1;
        if self.on_gpu {
            return self.step_on_gpu(learning_rate, factor);
        }
        let update = Update::new(self.options, self.steps, learning_rate, factor);
        let mut shares = Vec::new();
        for slot in &mut self.slots {
            if let Some(gradient) = slot.gradient.take() {
                shares.extend(Share::of(slot, &gradient).with_context(|| format!("parameter {}", slot.name))?);
            }
        }
        match &self.threads {
            Some(threads) => threads.install(|| shares.into_par_iter().try_for_each(|share| update.apply(&share))),
            None => shares.iter().try_for_each(|share| update.apply(share)),
        }
    }

    /// There an operation for each parameter would take longer to ask for than to do.
    fn step_on_gpu(&mut self, rate: f64, factor: f64) -> anyhow::Result<()> {
        let Options { beta1, beta2, eps, weight_decay } = self.options;
        let step = AdamWStep { steps: self.steps, rate, factor, betas: [beta1, beta2], weight_decay, eps };
        let gradients: Vec<Option<Tensor>> = self.slots.iter_mut().map(|slot| slot.gradient.take()).collect();
        let slots = self
            .slots
            .iter()
            .zip(&gradients)
            .filter_map(|(slot, gradient)| Some([&slot.parameter, gradient.as_ref()?, &slot.mean, &slot.square]));
        Ok(native::adamw(&slots.collect::<Vec<_>>(), step)?)
    }

    /// All that the next step depends on beside the parameters, as a safetensors file: `<name>.exp_avg` and
    /// `<name>.exp_avg_sq`, and the number of steps.
    pub fn serialise(&self) -> anyhow::Result<Vec<u8>> {
        let steps = [(self.steps >> DIGIT) as f32, (self.steps & ((1 << DIGIT) - 1)) as f32];
        let mut tensors = vec![(STEPS.to_owned(), Tensor::f_from_slice(&steps)?)];
        for slot in &self.slots {
            tensors.push((format!("{}.exp_avg", slot.name), slot.mean.shallow_clone()));
            tensors.push((format!("{}.exp_avg_sq", slot.name), slot.square.shallow_clone()));
        }
        Ok(serialise("optimiser", tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)))?)
    }

    /// Goes back to what [`serialise`](Self::serialise) gave of an optimiser over the same parameters. `file` is the name
    /// that errors carry.
    pub fn restore(&mut self, file: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let _no_grad = tch::no_grad_guard();
        let mut tensors = read(bytes).with_context(|| file.to_owned())?;
        let mut take = |name: String, shape: &[i64]| -> anyhow::Result<Tensor> {
            let tensor = tensors.remove(&name).with_context(|| format!("{file}: tensor {name}: is missing"))?;
            let found = tensor.size();
            ensure!(found == shape, "{file}: tensor {name}: has shape {found:?}, expected {shape:?}");
            Ok(tensor)
        };
        let steps = Vec::<f32>::try_from(take(STEPS.to_owned(), &[2])?)?;
        let mut means = Vec::with_capacity(self.slots.len());
        for Slot { name, parameter, .. } in &self.slots {
            let shape = parameter.size();
            means.push((take(format!("{name}.exp_avg"), &shape)?, take(format!("{name}.exp_avg_sq"), &shape)?));
        }
        if let Some(name) = tensors.keys().next() {
            bail!("{file}: tensor {name}: belongs to no parameter");
        }
        for (slot, (mean, square)) in self.slots.iter_mut().zip(&means) {
            slot.mean.f_copy_(mean)?;
            slot.square.f_copy_(square)?;
        }
        self.steps = steps.iter().fold(0, |steps, &digit| (steps << DIGIT) + digit as u64);
        self.discard();
        Ok(())
    }
}

fn read(bytes: &[u8]) -> anyhow::Result<BTreeMap<String, Tensor>> {
    let file = SafeTensors::deserialize(bytes).context("not a safetensors file")?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        ensure!(view.dtype() == Dtype::F32, "tensor {name}: has type {:?}, expected F32", view.dtype());
        let shape: Vec<i64> = view.shape().iter().map(|&side| side as i64).collect();
        tensors.insert(name.to_owned(), Tensor::f_from_data_size(view.data(), &shape, Kind::Float)?);
    }
    Ok(tensors)
}

/// What one thread works on: as many numbers of a parameter, of its two means and of its gradient.
struct Share([Tensor; 4]);

impl Share {
    /// All of `slot`.
    fn of(slot: &Slot, gradient: &Tensor) -> anyhow::Result<Vec<Self>> {
        let flat = |tensor: &Tensor| tensor.f_detach()?.f_view([-1]);
        let whole = [
            flat(&slot.parameter)?,
            flat(&slot.mean)?,
            flat(&slot.square)?,
            gradient.f_detach()?.f_contiguous()?.f_view([-1])?,
        ];
        let share = |(start, count)| -> anyhow::Result<Self> {
            let [parameter, mean, square, gradient] = whole.each_ref().map(|tensor| tensor.f_narrow(0, start, count));
            Ok(Self([parameter?, mean?, square?, gradient?]))
        };
        cut(gradient.numel() as i64, SHARE).map(share).collect()
    }
}

/// Where parts of at most `part` of `length` numbers begin, and how long they are.
fn cut(length: i64, part: i64) -> impl Iterator<Item = (i64, i64)> {
    (0..length).step_by(part as usize).map(move |start| (start, part.min(length - start)))
}

/// One step's numbers.
struct Update {
    options: Options,
    /// What gradients are multiplied by.
    scale: f64,
    /// What parameters are multiplied by.
    keep: f64,
    /// Learning rate over the first bias correction.
    rate: f64,
    /// Square root of the second bias correction.
    correction: f64,
}

impl Update {
    fn new(options: Options, steps: u64, learning_rate: f64, scale: f64) -> Self {
        let corrected = |beta: f64| 1.0 - beta.powf(steps as f64);
        let (rate, correction) = (learning_rate / corrected(options.beta1), corrected(options.beta2).sqrt());
        Self { options, scale, keep: 1.0 - learning_rate * options.weight_decay, rate, correction }
    }

    fn apply(&self, share: &Share) -> anyhow::Result<()> {
        // Of this thread.
        let _no_grad = tch::no_grad_guard();
        let Share([parameter, mean, square, gradient]) = share;
        let length = gradient.size1()?;
        for (start, count) in cut(length, PIECE) {
            let part = |tensor: &Tensor| tensor.f_narrow(0, start, count);
            self.apply_to(part(parameter)?, part(mean)?, part(square)?, &part(gradient)?)?;
        }
        Ok(())
    }

    fn apply_to(
        &self,
        mut parameter: Tensor,
        mut mean: Tensor,
        mut square: Tensor,
        gradient: &Tensor,
    ) -> anyhow::Result<()> {
        let Options { beta1, beta2, eps, .. } = self.options;
        let gradient = gradient.f_mul_scalar(self.scale)?;
        let _ = mean.f_lerp_(&gradient, 1.0 - beta1)?;
        let _ = square.f_lerp_(&gradient.f_square()?, 1.0 - beta2)?;
        let divisor = square.f_sqrt()?.f_div_scalar_(self.correction)?.f_add_scalar_(eps)?;
        let change = mean.f_div(&divisor)?.f_mul_scalar_(self.rate)?;
        let _ = parameter.f_mul_scalar_(self.keep)?.f_sub_(&change)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
