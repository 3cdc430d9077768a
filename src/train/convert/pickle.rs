//! The pickle inside a PyTorch file, read by a machine that can do nothing but build lists, dictionaries and the
//! descriptions of tensors.
//!
//! A pickle is a program. Unpickling one runs whatever functions it names; this machine knows the instructions that
//! `torch.save` writes (protocol 2) and the few names that state dicts need, and refuses every other. Values lie in one
//! list and refer to each other by index, so that no depth of nesting uses up the stack, and no value is copied, so that
//! a pickle of n bytes never makes more than n values.

mod memory;

use std::collections::HashMap;

use anyhow::{Context, bail, ensure};
use safetensors::Dtype;

use self::memory::Memory;

/// Longest pickle that is read, in bytes; that of the largest CLIP model is 0.3 MB long.
pub(super) const LONGEST: u64 = 4 << 20;

/// Place of a value.
type Id = usize;

enum Value {
    /// What no tensor needs: None, truth values, real numbers.
    Other,
    Int(i64),
    Text(String),
    /// A tuple or a list.
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Name(Name),
    Storage(Storage),
    Tensor {
        storage: Id,
        offset: Id,
        size: Id,
        stride: Id,
    },
}

/// What a pickle may name.
#[derive(Clone, Copy)]
enum Name {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Size,
    Storage(Dtype),
}

impl Name {
    fn of(module: &str, name: &str) -> anyhow::Result<Self> {
        Ok(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch", "Size") => Self::Size,
            ("torch", "FloatStorage") => Self::Storage(Dtype::F32),
            ("torch", "HalfStorage") => Self::Storage(Dtype::F16),
            ("torch", "BFloat16Storage") => Self::Storage(Dtype::BF16),
            ("torch", "DoubleStorage") => Self::Storage(Dtype::F64),
            ("torch", "LongStorage") => Self::Storage(Dtype::I64),
            ("torch", "IntStorage") => Self::Storage(Dtype::I32),
            ("torch", "ShortStorage") => Self::Storage(Dtype::I16),
            ("torch", "CharStorage") => Self::Storage(Dtype::I8),
            ("torch", "ByteStorage") => Self::Storage(Dtype::U8),
            ("torch", "BoolStorage") => Self::Storage(Dtype::BOOL),
            _ => bail!(
                "names {module:?}, {name:?}, which no state dict needs: refused, nothing of it has run; if you trust it, \
                 load it with PyTorch and save its state dict alone"
            ),
        })
    }
}

#[derive(Clone, Copy)]
struct Storage {
    dtype: Dtype,
    key: Id,
    count: u64,
}

/// A tensor of a state dict, as its pickle describes it.
#[derive(Debug, PartialEq)]
pub(super) struct Described {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// Name of the storage that it lies in.
    pub(super) storage: String,
    /// Number of numbers in that storage.
    pub(super) stored: u64,
    /// Number of numbers before its first.
    pub(super) offset: u64,
}

/// The tensors of the state dict in `pickle`, in its order. Whatever else it holds is left aside.
///
/// # Errors
///
/// When it is no pickle of a state dict, or does anything but describe one.
pub(super) fn read(pickle: &[u8]) -> anyhow::Result<Vec<Described>> {
    ensure!(pickle.len() as u64 <= LONGEST, "is {} bytes long, expected at most {LONGEST}", pickle.len());
    let mut machine = Machine { input: pickle, ..Machine::default() };
    let root = machine.run()?;
    Memory(&machine.values).state_dict(root)
}

#[derive(Default)]
struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack that lists and dictionaries begin at.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl Machine<'_> {
    /// The value that is on the stack at the end.
    fn run(&mut self) -> anyhow::Result<Id> {
        loop {
            let place = self.at;
            let instruction = self.byte()?;
            if instruction == b'.' {
                return self.pop();
            }
            self.step(instruction).with_context(|| format!("at byte {place}"))?;
        }
    }

    fn step(&mut self, instruction: u8) -> anyhow::Result<()> {
        match instruction {
            0x80 => {
                let protocol = self.byte()?;
                ensure!(protocol == 2, "has pickle protocol {protocol}, expected 2, as torch.save writes it");
            }
            b'(' => self.marks.push(self.stack.len()),
            b'N' | 0x88 | 0x89 => self.push(Value::Other),
            b'G' => {
                self.take(8)?;
                self.push(Value::Other);
            }
            b'K' | b'M' | b'J' | 0x8a => {
                let number = self.integer(instruction)?;
                self.push(number);
            }
            b'X' => {
                let length = self.number()?;
                let text = std::str::from_utf8(self.take(length as usize)?).context("text is not UTF-8")?.to_owned();
                self.push(Value::Text(text));
            }
            b')' | b']' => self.push(Value::List(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            0x85..=0x87 => self.tuple(usize::from(instruction - 0x84))?,
            b't' => {
                let items = self.pop_marked()?;
                self.push(Value::List(items));
            }
            b'q' => {
                let place = u32::from(self.byte()?);
                self.remember(place)?;
            }
            b'r' => {
                let place = self.number()?;
                self.remember(place)?;
            }
            b'h' => {
                let place = u32::from(self.byte()?);
                self.recall(place)?;
            }
            b'j' => {
                let place = self.number()?;
                self.recall(place)?;
            }
            b'a' | b'e' => {
                let items = if instruction == b'a' { vec![self.pop()?] } else { self.pop_marked()? };
                self.append(items)?;
            }
            b's' | b'u' => {
                let items = if instruction == b's' { self.pop_many(2)? } else { self.pop_marked()? };
                self.insert(&items)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                let name = Name::of(module, name)?;
                self.push(Value::Name(name));
            }
            b'Q' => self.storage()?,
            b'R' => self.call()?,
            b'b' => {
                // Attributes of an OrderedDict: versions of modules, which nobody needs.
                self.pop()?;
                let target = self.top()?;
                ensure!(matches!(self.values[target], Value::Dict(_)), "sets attributes of what is no dictionary");
            }
            other => bail!("uses the pickle instruction {other:#04x}, which no state dict needs"),
        }
        Ok(())
    }

    fn integer(&mut self, instruction: u8) -> anyhow::Result<Value> {
        let bytes = match instruction {
            b'K' => return Ok(Value::Int(i64::from(self.byte()?))),
            b'M' => self.take(2)?,
            b'J' => return Ok(Value::Int(i64::from(self.number()? as i32))),
            _ => {
                let length = usize::from(self.byte()?);
                self.take(length)?
            }
        };
        if bytes.len() > 8 {
            return Ok(Value::Other);
        }
        // Two's complement, least byte first; two bytes stand for a number without a sign.
        let negative = instruction != b'M' && bytes.last().is_some_and(|&byte| byte >= 0x80);
        let mut whole = [if negative { 0xff } else { 0 }; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        Ok(Value::Int(i64::from_le_bytes(whole)))
    }

    /// `('storage', type, key, device, count)` to a storage.
    fn storage(&mut self) -> anyhow::Result<()> {
        let reference = self.pop()?;
        let Value::List(parts) = &self.values[reference] else { bail!("refers to what is no storage") };
        let &[tag, kind, key, _, count] = parts.as_slice() else {
            bail!("refers to a storage by {} parts", parts.len())
        };
        let memory = Memory(&self.values);
        ensure!(memory.text(tag)? == "storage", "refers to what is no storage");
        let Value::Name(Name::Storage(dtype)) = self.values[kind] else { bail!("has a storage of no type") };
        memory.text(key)?;
        let count = memory.count(count)?;
        self.push(Value::Storage(Storage { dtype, key, count }));
        Ok(())
    }

    fn call(&mut self) -> anyhow::Result<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Value::List(arguments) = &self.values[arguments] else { bail!("calls without arguments") };
        let Value::Name(function) = self.values[function] else { bail!("calls what is no function") };
        let made = match (function, arguments.as_slice()) {
            (Name::OrderedDict, []) => Value::Dict(Vec::new()),
            (Name::RebuildTensor, &[storage, offset, size, stride, ..]) => {
                Value::Tensor { storage, offset, size, stride }
            }
            (Name::RebuildParameter, &[tensor, ..]) | (Name::Size, &[tensor]) => {
                self.stack.push(tensor);
                return Ok(());
            }
            _ => bail!("calls a function with {} arguments, which it does not take", arguments.len()),
        };
        self.push(made);
        Ok(())
    }

    fn append(&mut self, items: Vec<Id>) -> anyhow::Result<()> {
        let target = self.top()?;
        let Value::List(list) = &mut self.values[target] else { bail!("appends to what is no list") };
        list.extend(items);
        Ok(())
    }

    fn insert(&mut self, items: &[Id]) -> anyhow::Result<()> {
        let target = self.top()?;
        let Value::Dict(dict) = &mut self.values[target] else { bail!("sets items of what is no dictionary") };
        let (pairs, rest) = items.as_chunks::<2>();
        ensure!(rest.is_empty(), "sets a key without a value");
        dict.extend(pairs.iter().map(|&[key, value]| (key, value)));
        Ok(())
    }

    fn tuple(&mut self, count: usize) -> anyhow::Result<()> {
        let items = self.pop_many(count)?;
        self.push(Value::List(items));
        Ok(())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn top(&self) -> anyhow::Result<Id> {
        self.stack.last().copied().context("needs a value where there is none")
    }

    fn pop(&mut self) -> anyhow::Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        ensure!(self.stack.len() > floor, "needs a value where there is none");
        self.stack.pop().context("needs a value where there is none")
    }

    fn pop_many(&mut self, count: usize) -> anyhow::Result<Vec<Id>> {
        let mut items = (0..count).map(|_| self.pop()).collect::<anyhow::Result<Vec<_>>>()?;
        items.reverse();
        Ok(items)
    }

    fn pop_marked(&mut self) -> anyhow::Result<Vec<Id>> {
        let mark = self.marks.pop().context("ends a list that never began")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn remember(&mut self, place: u32) -> anyhow::Result<()> {
        let value = self.top()?;
        self.memo.insert(place, value);
        Ok(())
    }

    fn recall(&mut self, place: u32) -> anyhow::Result<()> {
        let value = *self.memo.get(&place).with_context(|| format!("recalls {place}, which it never kept"))?;
        self.stack.push(value);
        Ok(())
    }

    fn byte(&mut self) -> anyhow::Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// Four bytes, least first.
    fn number(&mut self) -> anyhow::Result<u32> {
        let bytes = self.take(4)?;
        Ok(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte)))
    }
}

impl<'a> Machine<'a> {
    fn take(&mut self, length: usize) -> anyhow::Result<&'a [u8]> {
        let taken = self.input.get(self.at..).and_then(|rest| rest.get(..length));
        let taken = taken.with_context(|| format!("ends after {} bytes, in the middle", self.input.len()))?;
        self.at += length;
        Ok(taken)
    }

    fn line(&mut self) -> anyhow::Result<&'a str> {
        let rest = self.input.get(self.at..).unwrap_or_default();
        let end = rest.iter().position(|&byte| byte == b'\n').context("has a name without an end")?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).context("a name is not UTF-8")
    }
}

#[cfg(test)]
mod tests;
