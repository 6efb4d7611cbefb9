//! Pickles as data: what a file of tensors needs of them, and no more.
//!
//! A pickle is a program for a small machine that can call any function of Python. This machine knows the instructions that build
//! plain values; a name of a function is looked up in a short list ([`Global`]), and every other is an error that names it. What
//! those few functions make is data again. Nothing is ever run.

use std::collections::HashMap;

/// No pickle of tensors makes more values, or is longer.
const MOST_VALUES: usize = 1 << 22;
const MOST_BYTES: usize = 64 << 20;
/// As torch has it.
const MOST_DIMENSIONS: usize = 64;

/// A value. Lists, tuples and dictionaries are numbers of [`Node`]s: they may hold themselves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    Node(usize),
    Global(Global),
    Storage(usize),
    Tensor(usize),
    /// Something that is not looked at: a device, a whole number of more than 64 bits.
    Opaque,
}

/// What holds other values.
#[derive(Debug)]
pub(super) enum Node<'a> {
    List(Vec<Value<'a>>),
    Tuple(Vec<Value<'a>>),
    Dict(Vec<(Value<'a>, Value<'a>)>),
}

/// Names of Python that are understood.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Global {
    OrderedDict,
    /// The class of a typed storage, or of torch's element types.
    Dtype(Dtype),
    /// A storage without a type: the tensor says it.
    Untyped,
    RebuildTensor,
    RebuildTensorV2,
    RebuildTensorV3,
    RebuildParameter,
    Size,
    Device,
    NumpyScalar,
    NumpyDtype,
    /// `_codecs.encode`: how protocol 2 spells bytes.
    Encode,
}

/// Element types of tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
    /// Another one, by name, which is not read.
    Other(&'static str),
}

/// Numbers of a file that tensors are views of.
#[derive(Debug)]
pub(super) struct Storage<'a> {
    pub(super) key: &'a str,
    /// `None` where the tensor says it.
    pub(super) dtype: Option<Dtype>,
    /// Elements, or bytes where there is no type.
    pub(super) len: u64,
}

/// A tensor: a view of a storage, in elements.
#[derive(Debug)]
pub(super) struct View {
    pub(super) storage: usize,
    pub(super) dtype: Dtype,
    pub(super) offset: u64,
    pub(super) shape: Vec<u64>,
    pub(super) strides: Vec<u64>,
}

/// What a pickle made.
#[derive(Debug, Default)]
pub(super) struct Heap<'a> {
    pub(super) nodes: Vec<Node<'a>>,
    pub(super) storages: Vec<Storage<'a>>,
    pub(super) views: Vec<View>,
}

/// The value of the pickle at the start of `bytes`, and how long that pickle is.
pub(super) fn run<'a>(bytes: &'a [u8], heap: &mut Heap<'a>) -> Result<(Value<'a>, usize), String> {
    let bytes = &bytes[..bytes.len().min(MOST_BYTES)];
    Machine { bytes, at: 0, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), heap, made: 0 }.run()
}

struct Machine<'a, 'h> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    heap: &'h mut Heap<'a>,
    /// Values made so far.
    made: usize,
}

type Done<T = ()> = Result<T, String>;

impl<'a> Machine<'a, '_> {
    fn run(mut self) -> Done<(Value<'a>, usize)> {
        loop {
            let opcode = self.take(1)?[0];
            if opcode == b'.' {
                return Ok((self.pop()?, self.at));
            }
            self.step(opcode)?;
            self.made += 1;
            if self.made > MOST_VALUES {
                return Err(format!("its pickle makes more than {MOST_VALUES} values"));
            }
        }
    }

    /// One instruction.
    fn step(&mut self, opcode: u8) -> Done {
        match opcode {
            // PROTO and FRAME say what the next bytes are like, which they are anyway.
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.since_mark()?),
            b'2' => self.stack.push(self.top()?),
            b'h' => self.recall(1)?,
            b'j' => self.recall(4)?,
            b'q' => self.remember(1)?,
            b'r' => self.remember(4)?,
            0x94 => drop(self.memo.insert(self.memo.len() as u32, self.top()?)),
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => self.global(module, name)?,
                _ => return Err("a name in its pickle is no text".into()),
            },
            b'Q' => {
                let id = self.pop()?;
                self.storage(id)?;
            }
            b'R' => {
                let (arguments, callable) = (self.pop()?, self.pop()?);
                self.call(callable, arguments)?;
            }
            b'b' => self.build()?,
            b'i' | b'o' | 0x81 | 0x92 => return Err("its pickle makes an object of a class, which is not done".into()),
            b']' | b'}' | b')' | b'l' | b't' | b'd' | 0x85..=0x87 => self.holder(opcode)?,
            b'a' | b'e' | b's' | b'u' => self.add(opcode)?,
            _ => self.plain(opcode)?,
        }
        Ok(())
    }

    /// An instruction whose bytes are a value.
    fn plain(&mut self, opcode: u8) -> Done {
        let value = match opcode {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'J' => Value::Int(self.unsigned(4)? as u32 as i32 as i64),
            b'K' => Value::Int(self.unsigned(1)? as i64),
            b'M' => Value::Int(self.unsigned(2)? as i64),
            0x8A => long(self.sized(1)?),
            0x8B => long(self.sized(4)?),
            b'G' => Value::Float(f64::from_be_bytes(self.take(8)?.try_into().expect("eight were taken"))),
            // The last two are Python 2's strings.
            b'X' | 0x8C | 0x8D | b'T' | b'U' => {
                let bytes =
                    self.sized(if opcode == b'X' || opcode == b'T' { 4 } else { 1 + 7 * (opcode == 0x8D) as usize })?;
                Value::Text(std::str::from_utf8(bytes).map_err(|_| "a text in its pickle is not UTF-8")?)
            }
            b'B' => Value::Bytes(self.sized(4)?),
            b'C' => Value::Bytes(self.sized(1)?),
            0x8E => Value::Bytes(self.sized(8)?),
            _ => {
                return Err(format!(
                    "its pickle has the instruction {opcode:#04x} at {}, which is not read",
                    self.at - 1
                ));
            }
        };
        self.stack.push(value);
        Ok(())
    }

    /// An instruction that makes what holds other values.
    fn holder(&mut self, opcode: u8) -> Done {
        let node = match opcode {
            b']' => Node::List(Vec::new()),
            b'}' => Node::Dict(Vec::new()),
            b')' => Node::Tuple(Vec::new()),
            b'l' => Node::List(self.since_mark()?),
            b't' => Node::Tuple(self.since_mark()?),
            b'd' => Node::Dict(pairs(&self.since_mark()?)?),
            _ => {
                let first = self.stack.len().checked_sub(opcode as usize - 0x84).filter(|first| *first >= self.floor());
                Node::Tuple(self.stack.split_off(first.ok_or(EMPTY)?))
            }
        };
        self.push_node(node);
        Ok(())
    }

    /// An instruction that adds to a list or dictionary.
    fn add(&mut self, opcode: u8) -> Done {
        let items = match opcode {
            b'a' => vec![self.pop()?],
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                vec![key, value]
            }
            _ => self.since_mark()?,
        };
        let Value::Node(node) = self.top()? else {
            return Err("its pickle adds to something that holds nothing".into());
        };
        match (opcode, &mut self.heap.nodes[node]) {
            (b'a' | b'e', Node::List(list)) => list.extend(items),
            (b's' | b'u', Node::Dict(dict)) => dict.extend(pairs(&items)?),
            (b'a' | b'e', _) => return Err("its pickle adds to a list that is none".into()),
            _ => return Err("its pickle adds to a dictionary that is none".into()),
        }
        Ok(())
    }

    /// The state of an object: an OrderedDict's is its versions, that of an element type its byte order.
    fn build(&mut self) -> Done {
        let state = self.pop()?;
        match self.top()? {
            Value::Node(node) if matches!(self.heap.nodes[node], Node::Dict(_)) => Ok(()),
            Value::Global(Global::Dtype(_)) => match self.heap.tuple(state).and_then(|state| state.get(1)) {
                Some(Value::Text("<" | "|" | "=")) => Ok(()),
                _ => Err("its pickle has numbers that are not little-endian".into()),
            },
            _ => Err("its pickle sets the state of an object, which is not read".into()),
        }
    }

    fn take(&mut self, len: usize) -> Done<&'a [u8]> {
        let taken = self.bytes[self.at..].get(..len).ok_or("its pickle is cut short")?;
        self.at += len;
        Ok(taken)
    }

    fn line(&mut self) -> Done<&'a str> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().take(1 << 10).position(|byte| *byte == b'\n').ok_or("a name in its pickle has no end")?;
        self.at += len + 1;
        std::str::from_utf8(&rest[..len]).map_err(|_| "a name in its pickle is not UTF-8".into())
    }

    fn unsigned(&mut self, len: usize) -> Done<u64> {
        Ok(self.take(len)?.iter().rev().fold(0, |number, byte| number << 8 | *byte as u64))
    }

    fn top(&self) -> Done<Value<'a>> {
        Ok(*self.stack.last().ok_or(EMPTY)?)
    }

    /// The height that the innermost mark protects.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Done<Value<'a>> {
        if self.stack.len() <= self.floor() {
            return Err(EMPTY.into());
        }
        Ok(self.stack.pop().expect("it is higher than its floor"))
    }

    fn since_mark(&mut self) -> Done<Vec<Value<'a>>> {
        let mark = self.marks.pop().ok_or(EMPTY)?;
        Ok(self.stack.split_off(mark))
    }

    fn sized(&mut self, size: usize) -> Done<&'a [u8]> {
        let len = self.unsigned(size)?;
        self.take(usize::try_from(len).unwrap_or(usize::MAX))
    }

    fn push_node(&mut self, node: Node<'a>) {
        self.heap.nodes.push(node);
        self.stack.push(Value::Node(self.heap.nodes.len() - 1));
    }

    fn recall(&mut self, size: usize) -> Done {
        let place = self.unsigned(size)? as u32;
        let value = *self.memo.get(&place).ok_or("its pickle asks for a value that it did not keep")?;
        self.stack.push(value);
        Ok(())
    }

    fn remember(&mut self, size: usize) -> Done {
        let place = self.unsigned(size)? as u32;
        self.memo.insert(place, self.top()?);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Done {
        let global = Global::find(module, name).ok_or_else(|| {
            let name = format!("{module}.{name}");
            let name: String = name.escape_debug().take(80).collect();
            format!("its pickle names `{name}`, which is no part of tensors; nothing of it was run")
        })?;
        self.stack.push(Value::Global(global));
        Ok(())
    }

    /// The tuple of a persistent id: `("storage", class, key, device, length)`.
    fn storage(&mut self, id: Value<'a>) -> Done {
        let wrong = "its pickle refers to something other than a storage";
        let items = self.heap.tuple(id).ok_or(wrong)?;
        let [Value::Text("storage"), Value::Global(class), Value::Text(key), _device, Value::Int(len), rest @ ..] =
            items
        else {
            return Err(wrong.into());
        };
        let dtype = match class {
            Global::Dtype(dtype) => Some(*dtype),
            Global::Untyped => None,
            _ => return Err(wrong.into()),
        };
        if rest.iter().any(|view| *view != Value::None) {
            return Err("its pickle has a storage that is a view of another, as only torch before 0.4 made".into());
        }
        let len = u64::try_from(*len).map_err(|_| "a storage has a negative length")?;
        let storage = Storage { key, dtype, len };
        self.heap.storages.push(storage);
        self.stack.push(Value::Storage(self.heap.storages.len() - 1));
        Ok(())
    }

    fn call(&mut self, callable: Value<'a>, arguments: Value<'a>) -> Done {
        let Value::Global(global) = callable else {
            return Err("its pickle calls something that is no function".into());
        };
        let wrong = format!("its pickle gives {global:?} arguments that are not its own");
        let arguments =
            self.heap.tuple(arguments).filter(|list| list.len() <= 8).ok_or_else(|| wrong.clone())?.to_vec();
        let made = match (global, &arguments[..]) {
            (Global::OrderedDict, []) => {
                self.push_node(Node::Dict(Vec::new()));
                return Ok(());
            }
            (Global::OrderedDict, [Value::Node(list)]) => {
                let Node::List(list) = &self.heap.nodes[*list] else { return Err(wrong) };
                self.made += list.len();
                let pair = |item: &Value<'a>| match self.heap.items(*item) {
                    Some([key, value]) => Some((*key, *value)),
                    _ => None,
                };
                let dict = list.iter().map(pair).collect::<Option<_>>().ok_or(wrong)?;
                self.push_node(Node::Dict(dict));
                return Ok(());
            }
            (
                Global::RebuildTensor | Global::RebuildTensorV2,
                [Value::Storage(storage), offset, shape, strides, ..],
            ) => {
                let dtype = self.heap.storages[*storage].dtype.ok_or_else(|| wrong.clone())?;
                self.heap.view(*storage, dtype, *offset, *shape, *strides).ok_or(wrong)?
            }
            (
                Global::RebuildTensorV3,
                [Value::Storage(storage), offset, shape, strides, _, _, Value::Global(Global::Dtype(dtype)), ..],
            ) => self.heap.view(*storage, *dtype, *offset, *shape, *strides).ok_or(wrong)?,
            (Global::RebuildParameter, [tensor @ Value::Tensor(_), ..]) => *tensor,
            (Global::Size, [list]) => *list,
            (Global::Device, _) => Value::Opaque,
            (Global::NumpyDtype, [Value::Text(code), ..]) => Value::Global(Global::Dtype(numpy(code).ok_or(wrong)?)),
            (Global::NumpyScalar, [Value::Global(Global::Dtype(dtype)), Value::Bytes(bytes)]) => {
                scalar(*dtype, bytes).ok_or(wrong)?
            }
            // A number's bytes as text, of which each character is one: what does not fit ASCII is two in UTF-8.
            (Global::NumpyScalar, [Value::Global(Global::Dtype(dtype)), Value::Text(text)]) => {
                let bytes = text.chars().map(|c| u8::try_from(c as u32).ok()).collect::<Option<Vec<u8>>>();
                scalar(*dtype, &bytes.ok_or_else(|| wrong.clone())?).ok_or(wrong)?
            }
            (Global::Encode, [text @ Value::Text(_), Value::Text("latin1")]) => *text,
            _ => return Err(wrong),
        };
        self.stack.push(made);
        Ok(())
    }
}

const EMPTY: &str = "its pickle takes a value where there is none";

fn pairs<'a>(items: &[Value<'a>]) -> Done<Vec<(Value<'a>, Value<'a>)>> {
    let (pairs, rest) = items.as_chunks::<2>();
    if rest.is_empty() {
        Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
    } else {
        Err("its pickle has a key without a value".into())
    }
}

/// A whole number in as many bytes as it takes.
fn long(bytes: &[u8]) -> Value<'_> {
    if bytes.len() > 8 {
        return Value::Opaque;
    }
    let start = if bytes.last().is_some_and(|byte| *byte >= 0x80) { -1 } else { 0 };
    Value::Int(bytes.iter().rev().fold(start, |number: i64, byte| number << 8 | *byte as i64))
}

impl<'a> Heap<'a> {
    /// The items of a tuple.
    fn tuple(&self, value: Value) -> Option<&[Value<'a>]> {
        match value {
            Value::Node(node) => match &self.nodes[node] {
                Node::Tuple(items) => Some(items),
                _ => None,
            },
            _ => None,
        }
    }

    /// The items of a tuple or list.
    pub(super) fn items(&self, value: Value) -> Option<&[Value<'a>]> {
        match value {
            Value::Node(node) => match &self.nodes[node] {
                Node::Tuple(items) | Node::List(items) => Some(items),
                Node::Dict(_) => None,
            },
            _ => None,
        }
    }

    fn view(
        &mut self,
        storage: usize,
        dtype: Dtype,
        offset: Value<'a>,
        shape: Value<'a>,
        strides: Value<'a>,
    ) -> Option<Value<'a>> {
        let number = |value: &Value| match value {
            Value::Int(number) => u64::try_from(*number).ok(),
            _ => None,
        };
        let few = |list| self.items(list).filter(|items| items.len() <= MOST_DIMENSIONS);
        let numbers = |list| few(list)?.iter().map(number).collect::<Option<Vec<u64>>>();
        let (shape, strides): (Vec<u64>, Vec<u64>) = (numbers(shape)?, numbers(strides)?);
        if shape.len() != strides.len() {
            return None;
        }
        self.views.push(View { storage, dtype, offset: number(&offset)?, shape, strides });
        Some(Value::Tensor(self.views.len() - 1))
    }
}

impl Global {
    fn find(module: &str, name: &str) -> Option<Global> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensorV2,
            ("torch._utils", "_rebuild_tensor_v3") => Global::RebuildTensorV3,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Global::RebuildParameter,
            ("torch", "Size") => Global::Size,
            ("torch", "device") => Global::Device,
            ("torch" | "torch.storage", "UntypedStorage") => Global::Untyped,
            ("torch" | "torch.cuda", name) => Global::Dtype(torch(name)?),
            ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Global::NumpyScalar,
            ("numpy", "dtype") => Global::NumpyDtype,
            ("_codecs", "encode") => Global::Encode,
            _ => return None,
        })
    }
}

/// The element type of a typed storage's class, or torch's own name of it.
fn torch(name: &str) -> Option<Dtype> {
    Some(match name {
        "DoubleStorage" | "float64" => Dtype::F64,
        "FloatStorage" | "float32" => Dtype::F32,
        "HalfStorage" | "float16" => Dtype::F16,
        "BFloat16Storage" | "bfloat16" => Dtype::BF16,
        "LongStorage" | "int64" => Dtype::I64,
        "IntStorage" | "int32" => Dtype::I32,
        "ShortStorage" | "int16" => Dtype::I16,
        "CharStorage" | "int8" => Dtype::I8,
        "ByteStorage" | "uint8" => Dtype::U8,
        "BoolStorage" | "bool" => Dtype::Bool,
        "uint16" => Dtype::Other("uint16"),
        "uint32" => Dtype::Other("uint32"),
        "uint64" => Dtype::Other("uint64"),
        "float8_e4m3fn" => Dtype::Other("float8_e4m3fn"),
        "float8_e5m2" => Dtype::Other("float8_e5m2"),
        "ComplexFloatStorage" | "complex64" => Dtype::Other("complex64"),
        "ComplexDoubleStorage" | "complex128" => Dtype::Other("complex128"),
        _ => return None,
    })
}

/// Numpy's codes of little-endian element types, with or without their mark.
pub(super) fn numpy(code: &str) -> Option<Dtype> {
    Some(match code.trim_start_matches(['<', '|', '=']) {
        "f8" => Dtype::F64,
        "f4" => Dtype::F32,
        "f2" => Dtype::F16,
        "i8" => Dtype::I64,
        "i4" => Dtype::I32,
        "i2" => Dtype::I16,
        "i1" => Dtype::I8,
        "u1" => Dtype::U8,
        "b1" => Dtype::Bool,
        _ => return None,
    })
}

/// A number of numpy's.
fn scalar<'a>(dtype: Dtype, bytes: &[u8]) -> Option<Value<'a>> {
    if dtype.size()? != bytes.len() {
        return None;
    }
    Some(match dtype.int(bytes) {
        Some(number) if dtype == Dtype::Bool => Value::Bool(number != 0),
        Some(number) => Value::Int(number),
        None => Value::Float(dtype.float(bytes)?),
    })
}

impl Dtype {
    /// Bytes of an element; `None` of one that is not read.
    pub(super) fn size(self) -> Option<usize> {
        Some(match self {
            Dtype::F64 | Dtype::I64 => 8,
            Dtype::F32 | Dtype::I32 => 4,
            Dtype::F16 | Dtype::BF16 | Dtype::I16 => 2,
            Dtype::I8 | Dtype::U8 | Dtype::Bool => 1,
            Dtype::Other(_) => return None,
        })
    }

    /// The element in its bytes, if it is a whole number.
    pub(super) fn int(self, bytes: &[u8]) -> Option<i64> {
        Some(match self {
            Dtype::I64 => i64::from_le_bytes(bytes.try_into().ok()?),
            Dtype::I32 => i32::from_le_bytes(bytes.try_into().ok()?) as i64,
            Dtype::I16 => i16::from_le_bytes(bytes.try_into().ok()?) as i64,
            Dtype::I8 => bytes.first().map(|byte| *byte as i8 as i64)?,
            Dtype::U8 | Dtype::Bool => bytes.first().map(|byte| *byte as i64)?,
            _ => return None,
        })
    }

    /// The element in its bytes, if it is a fraction.
    pub(super) fn float(self, bytes: &[u8]) -> Option<f64> {
        Some(match self {
            Dtype::F64 => f64::from_le_bytes(bytes.try_into().ok()?),
            Dtype::F32 => f32::from_le_bytes(bytes.try_into().ok()?) as f64,
            Dtype::F16 => half::f16::from_le_bytes(bytes.try_into().ok()?).to_f64(),
            Dtype::BF16 => half::bf16::from_le_bytes(bytes.try_into().ok()?).to_f64(),
            _ => return None,
        })
    }
}
