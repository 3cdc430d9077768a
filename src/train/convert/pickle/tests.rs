//! Pickles as torch.save writes them, as attackers do, and as chance does.

use proptest::prelude::*;

use super::*;

/// A pickle, instruction by instruction.
#[derive(Clone)]
struct Program(Vec<u8>);

impl Program {
    fn new() -> Self {
        Self(vec![0x80, 2])
    }

    fn op(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        self.op(b"X").op(&(text.len() as u32).to_le_bytes()).op(text.as_bytes())
    }

    fn name(self, module: &str, name: &str) -> Self {
        self.op(format!("c{module}\n{name}\n").as_bytes())
    }

    /// A long integer.
    fn long(self, number: i64) -> Self {
        self.op(&[0x8a, 8]).op(&number.to_le_bytes())
    }

    fn longs(self, numbers: &[i64]) -> Self {
        numbers.iter().fold(self.op(b"("), |program, &number| program.long(number)).op(b"t")
    }

    /// A tensor in a storage of `stored` numbers.
    fn tensor(self, stored: i64, offset: i64, size: &[i64], stride: &[i64]) -> Self {
        let program = self.name("torch._utils", "_rebuild_tensor_v2").op(b"((").text("storage");
        let program = program.name("torch", "FloatStorage").text("0").text("cpu").long(stored).op(b"tQ");
        let program = program.long(offset).longs(size).longs(stride).op(&[0x89]);
        program.name("collections", "OrderedDict").op(b")RtR")
    }

    /// A dictionary of one tensor `w`.
    fn state_dict(stored: i64, offset: i64, size: &[i64], stride: &[i64]) -> Self {
        Self::new().op(b"}(").text("w").tensor(stored, offset, size, stride).op(b"u.")
    }

    fn read(&self) -> anyhow::Result<Vec<Described>> {
        read(&self.0)
    }

    fn refusal(&self) -> String {
        format!("{:#}", self.read().unwrap_err())
    }
}

fn described(stored: u64, offset: u64, shape: &[usize]) -> Described {
    Described {
        name: "w".to_owned(),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        storage: "0".to_owned(),
        stored,
        offset,
    }
}

#[test]
fn tensors_are_described() {
    assert_eq!(Program::state_dict(6, 0, &[2, 3], &[3, 1]).read().unwrap(), [described(6, 0, &[2, 3])]);
    assert_eq!(Program::state_dict(9, 3, &[2, 1, 3], &[3, 77, 1]).read().unwrap(), [described(9, 3, &[2, 1, 3])]);
    assert_eq!(Program::state_dict(1, 0, &[], &[]).read().unwrap(), [described(1, 0, &[])]);
    assert_eq!(Program::state_dict(0, 0, &[0, 5], &[5, 1]).read().unwrap(), [described(0, 0, &[0, 5])]);
}

#[test]
fn state_dicts_are_found_inside_what_trainers_save() {
    let inner = Program::new().op(b"}(").text("epoch").op(b"K\x03").text("model").text("a name").text("state_dict");
    let inner = inner.op(b"}(").text("module").op(b"}(").text("w").tensor(2, 0, &[2], &[1]).op(b"uuu.");
    assert_eq!(inner.read().unwrap(), [described(2, 0, &[2])]);
    // A dictionary that holds itself has no end, but the search for tensors has.
    let endless = Program::new().op(b"}q\x01(").text("model").op(b"h\x01u.");
    assert_eq!(
        endless.refusal(),
        "has no tensors under its keys model: expected a state dict, alone or under one of state_dict, model_state_dict, \
         module, model"
    );
}

#[test]
fn nothing_is_called_but_what_makes_tensors() {
    let attacks = [
        Program::new().name("os", "system").text("touch harmed").op(&[0x85]).op(b"R."),
        Program::new().name("posix", "system").op(b"(").text("touch harmed").op(b"tR."),
        Program::new().name("builtins", "eval").text("1").op(&[0x85]).op(b"R."),
        Program::new().name("torch.serialization", "load").text("other.pt").op(&[0x85]).op(b"R."),
        Program::new().name("collections", "OrderedDict.__init__").op(b")R."),
    ];
    for attack in attacks {
        let said = attack.refusal();
        assert!(said.contains("which no state dict needs: refused, nothing of it has run"), "{said}");
    }
    let instructions: [&[u8]; 5] = [b"(cposix", b"\x81", b"\x93", b"i", b"\x82\x01"];
    for instruction in instructions {
        assert!(Program::new().op(b"})").op(instruction).op(b"\n\n.").read().is_err());
    }
    let said = Program::new().op(b"})").op(b"\x81.").refusal();
    assert_eq!(said, "at byte 4: uses the pickle instruction 0x81, which no state dict needs");
    let said = Program::new().name("collections", "OrderedDict").long(1).op(&[0x85]).op(b"R.").refusal();
    assert!(said.ends_with("calls a function with 1 arguments, which it does not take"), "{said}");
}

#[test]
fn depth_and_repetition_cost_nothing() {
    // Tuples in tuples in tuples: freeing them one inside the other would need as deep a stack.
    let deep = Program::new().op(b")").op(&vec![0x85; 1_000_000]).op(b"0.");
    assert!(deep.refusal().contains("0x30"));
    // Lists of the same list, twice each time: 2^10000 elements, were they written out.
    let laughs = (0..10_000).fold(Program::new().op(b"]q\x00"), |laughs, _| laughs.op(b"h\x00h\x00\x86q\x00"));
    assert!(laughs.op(b".").refusal().contains("holds no state dict"));
    let long = Program::new().op(&vec![b'N'; LONGEST as usize]);
    assert!(long.refusal().starts_with("is 4194306 bytes long, expected at most 4194304"));
}

#[test]
fn what_is_not_there_is_not_described() {
    let beyond = "tensor w: reaches beyond its storage of 6 numbers";
    assert_eq!(Program::state_dict(6, 1, &[2, 3], &[3, 1]).refusal(), beyond);
    assert_eq!(Program::state_dict(6, i64::MAX, &[2, 3], &[3, 1]).refusal(), beyond);
    let huge = [1 << 40, 1 << 40];
    assert_eq!(Program::state_dict(6, 0, &huge, &[1 << 40, 1]).refusal(), "tensor w: is larger than any memory");
    assert_eq!(
        Program::state_dict(6, 0, &[-1], &[1]).refusal(),
        "tensor w: has a length of -1: out of range integral type conversion attempted"
    );
    assert_eq!(Program::state_dict(6, 0, &[3, 2], &[1, 3]).refusal(), "tensor w: is not stored row by row");
    assert_eq!(Program::state_dict(6, 0, &[6], &[]).refusal(), "tensor w: is not stored row by row");
    assert_eq!(Program::state_dict(6, 0, &[1; 9], &[1; 9]).refusal(), "tensor w: has 9 sides, expected at most 8");
    assert!(
        Program::state_dict(-6, 0, &[1], &[1])
            .refusal()
            .ends_with("has a length of -6: out of range integral type conversion attempted")
    );
}

#[test]
fn integers_are_as_python_writes_them() {
    let read = |bytes: &[u8]| {
        let mut machine = Machine { input: &bytes[1..], ..Machine::default() };
        match machine.integer(bytes[0]) {
            Ok(Value::Int(number)) => Some(number),
            _ => None,
        }
    };
    assert_eq!(read(b"K\xff"), Some(255));
    assert_eq!(read(b"M\xff\xff"), Some(65535));
    assert_eq!(read(b"J\xfe\xff\xff\xff"), Some(-2));
    assert_eq!(read(b"\x8a\x00"), Some(0));
    assert_eq!(read(b"\x8a\x01\xff"), Some(-1));
    assert_eq!(read(b"\x8a\x02\xff\x00"), Some(255));
    assert_eq!(read(b"\x8a\x09\0\0\0\0\0\0\0\0\x01"), None);
}

#[test]
fn every_cut_is_refused() {
    let whole = Program::state_dict(6, 0, &[2, 3], &[3, 1]);
    for length in 0..whole.0.len() {
        assert!(read(&whole.0[..length]).is_err(), "{length}");
    }
}

proptest! {
    #[test]
    fn no_bytes_are_fatal(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes);
    }

    #[test]
    fn no_change_of_a_pickle_is_fatal(changes in prop::collection::vec((0usize..300, any::<u8>()), 1..6)) {
        let mut pickle = Program::state_dict(6, 0, &[2, 3], &[3, 1]).0;
        for (place, byte) in changes {
            let place = place % pickle.len();
            pickle[place] = byte;
        }
        let _ = read(&pickle);
    }

    #[test]
    fn no_order_of_instructions_is_fatal(instructions in prop::collection::vec(
        prop::sample::select(vec![
            &b"("[..], b"N", b"\x88", b"K\x01", b"M\x01\x00", b"X\x01\x00\x00\x00w", b")", b"]", b"}", b"\x85", b"\x86",
            b"\x87", b"t", b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"a", b"e", b"s", b"u", b"ccollections\nOrderedDict\n",
            b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"Q", b"R", b"b",
        ]), 0..60)) {
        let _ = read(&[&[0x80, 2][..], &instructions.concat(), b"."].concat());
    }
}
