//! Files of torch: `.pt`, `.pth`, `.bin`, in the zip form of torch 1.6 and later, and the one before.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::archive::{Entry, archive};
use super::pickle::{self, Heap, Node, Value};
use super::{Contents, Leaf, Numbers, Place, Tensor};

/// No file of tensors has more names, longer ones, or names deeper inside each other.
const MOST_NAMES: usize = 1 << 18;
const DEEPEST: usize = 16;
const LONGEST_NAME: usize = 512;

/// The number that a file of torch before 1.6 starts with, as its pickle has it.
const LEGACY: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

/// Whether a file starts as one of torch before 1.6.
pub(super) fn is_legacy(file: &[u8]) -> bool {
    file.len() > 14 && file[0] == 0x80 && &file[2..14] == LEGACY
}

/// The name of the pickle in an archive, if it is one of torch.
pub(super) fn pickle_of(entries: &[Entry]) -> Option<&Entry> {
    entries.iter().find(|entry| entry.name.strip_suffix("/data.pkl").is_some_and(|root| !root.contains('/')))
}

/// What an archive of torch holds.
pub(super) fn zip(file: &[u8], entries: &[Entry]) -> Result<Contents, String> {
    let entry = pickle_of(entries).ok_or("it holds no `data.pkl`")?;
    let root = entry.name.strip_suffix("data.pkl").unwrap_or_default();
    let by_name: HashMap<&str, &Entry> = entries.iter().map(|entry| (&*entry.name, entry)).collect();
    let stored = |name: &str| {
        let entry = by_name.get(&*format!("{root}{name}")).ok_or_else(|| format!("it lacks `{root}{name}`"))?;
        match entry.inflated {
            None => Ok(entry.bytes.clone()),
            Some(_) => Err(format!("`{root}{name}` is compressed, which torch never does")),
        }
    };
    if let Ok(order) = stored("byteorder")
        && file[order] != *b"little"
    {
        return Err("its numbers are not little-endian".into());
    }
    let mut heap = Heap::default();
    let (value, _) = pickle::run(&file[stored("data.pkl")?], &mut heap)?;
    let places = heap.storages.iter().map(|storage| stored(&format!("data/{}", storage.key)));
    let places = places.collect::<Result<Vec<_>, String>>()?;
    contents(&heap, value, &places)
}

/// What a file of torch before 1.6 holds: five pickles, then the storages.
pub(super) fn legacy(file: &[u8]) -> Result<Contents, String> {
    let mut at = 0;
    let mut heap = Heap::default();
    for what in ["magic number", "version", "machine"] {
        let (value, len) = pickle::run(&file[at..], &mut heap)?;
        at += len;
        if let ("machine", Value::Node(node)) = (what, value) {
            let is_little = (Value::Text("little_endian"), Value::Bool(true));
            if !matches!(&heap.nodes[node], Node::Dict(items) if items.contains(&is_little)) {
                return Err("its numbers are not little-endian".into());
            }
        }
    }
    let (value, len) = pickle::run(&file[at..], &mut heap)?;
    at += len;
    let (keys, len) = pickle::run(&file[at..], &mut heap)?;
    at += len;
    let mut by_key = HashMap::new();
    for key in heap.items(keys).ok_or("it does not list its storages")? {
        let Value::Text(key) = key else { return Err("it does not list its storages".into()) };
        let storage = heap.storages.iter().find(|storage| storage.key == *key);
        let size = storage.and_then(|storage| storage.dtype?.size()).ok_or("it has a storage that is not read")?;
        let len = file.get(at..at + 8).ok_or("it is cut short")?;
        let len = u64::from_le_bytes(len.try_into().expect("eight bytes"));
        let end = len.checked_mul(size as u64).and_then(|len| len.checked_add(at as u64 + 8));
        let end = end.filter(|end| *end <= file.len() as u64).ok_or("it is cut short")? as usize;
        by_key.insert(*key, at + 8..end);
        at = end;
    }
    let place =
        |key: &str| by_key.get(key).cloned().ok_or_else(|| format!("it lacks storage `{}`", key.escape_debug()));
    let places = heap.storages.iter().map(|storage| place(storage.key)).collect::<Result<Vec<_>, String>>()?;
    contents(&heap, value, &places)
}

/// The names and leaves of what a pickle made, where `places` are the bytes of its storages.
fn contents(heap: &Heap, root: Value, places: &[Range<usize>]) -> Result<Contents, String> {
    let mut contents = Contents::default();
    if !matches!(root, Value::Node(node) if matches!(heap.nodes[node], Node::Dict(_))) {
        return Err("its pickle is no dictionary of tensors".into());
    }
    let mut names = HashSet::new();
    // Names, values and depth of what is still to be taken apart, the next last.
    let mut open = vec![(String::new(), root, 0)];
    while let Some((name, value, depth)) = open.pop() {
        if names.len() + open.len() > MOST_NAMES {
            return Err(format!("its pickle names more than {MOST_NAMES} values"));
        }
        if name.len() > LONGEST_NAME {
            return Err(format!("its pickle has a name of {} bytes", name.len()));
        }
        if let Value::Node(node) = value {
            if depth == DEEPEST {
                return Err(format!(
                    "its pickle holds dictionaries or lists more than {DEEPEST} deep, or within themselves"
                ));
            }
            let inside = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
            match &heap.nodes[node] {
                Node::Dict(items) => {
                    for (key, value) in items.iter().rev() {
                        let key = match key {
                            Value::Text(key) => inside(key),
                            Value::Int(key) => inside(&key.to_string()),
                            _ => return Err("its pickle has a key that is neither text nor a whole number".into()),
                        };
                        open.push((key, *value, depth + 1));
                    }
                }
                Node::List(items) | Node::Tuple(items) => {
                    let named =
                        items.iter().enumerate().rev().map(|(i, item)| (inside(&i.to_string()), *item, depth + 1));
                    open.extend(named);
                }
            }
            continue;
        }
        if !names.insert(name.clone()) {
            return Err(format!("it holds `{}` twice", name.escape_debug()));
        }
        let leaf = match value {
            Value::Tensor(view) => {
                let view = &heap.views[view];
                let tensor = tensor(heap, view, &places[view.storage]);
                contents.tensors.push((name.clone(), tensor.map_err(|problem| format!("tensor `{name}` {problem}"))?));
                continue;
            }
            Value::Bool(flag) => Leaf::Bool(flag),
            Value::Int(number) => Leaf::Int(number),
            Value::Float(number) => Leaf::Float(number),
            Value::Text(text) => Leaf::Text(text.to_owned()),
            _ => continue,
        };
        contents.leaves.push((name, leaf));
    }
    Ok(contents)
}

/// A tensor as a view of the bytes of its storage: it must lie within, and no two of its elements in one place.
fn tensor(heap: &Heap, view: &pickle::View, place: &Range<usize>) -> Result<Tensor, String> {
    let storage = &heap.storages[view.storage];
    let Some(size) = view.dtype.size() else {
        return Ok(Tensor { dtype: view.dtype, shape: Vec::new(), strides: Vec::new(), place: Place::Unread });
    };
    let bytes = storage.len.checked_mul(if storage.dtype.is_some() { size as u64 } else { 1 });
    if bytes.is_none_or(|bytes| bytes > place.len() as u64) {
        return Err(format!(
            "is of a storage of {} elements, but the file has {} bytes of it",
            storage.len,
            place.len()
        ));
    }
    let len = (place.len() / size) as u64;
    let whole = |numbers: &[u64]| numbers.iter().map(|n| usize::try_from(*n).ok()).collect::<Option<Vec<usize>>>();
    let (shape, strides) = whole(&view.shape).zip(whole(&view.strides)).ok_or("has a size that is none")?;
    let elements = view.shape.iter().try_fold(1, |product: u64, n| product.checked_mul(*n));
    if elements == Some(0) {
        return Ok(Tensor { dtype: view.dtype, shape, strides, place: Place::Bytes(place.start..place.start) });
    }
    let past = format!("has shape {shape:?} at {}, but its storage has {len} elements", view.offset);
    let steps = view.shape.iter().zip(&view.strides).filter(|(n, _)| **n > 1);
    let mut sorted: Vec<(u64, u64)> = steps.map(|(n, stride)| (*stride, *n)).collect();
    sorted.sort_unstable();
    let mut last: u64 = 0;
    for (stride, n) in sorted {
        if stride <= last {
            return Err(format!(
                "has strides {strides:?} for shape {shape:?}: its elements overlap; save a copy of it"
            ));
        }
        last = stride.checked_mul(n - 1).and_then(|more| last.checked_add(more)).ok_or_else(|| past.clone())?;
    }
    if elements.is_none() || view.offset.checked_add(last).is_none_or(|last| last >= len) {
        return Err(past);
    }
    let start = place.start + view.offset as usize * size;
    Ok(Tensor { dtype: view.dtype, shape, strides, place: Place::Bytes(start..start + (last as usize + 1) * size) })
}

/// A file of torch, in the zip form, that holds a dictionary of these tensors: names, shapes and numbers. `None` if it would be
/// larger than 4 GiB.
pub(super) fn file(tensors: &[(&str, Vec<usize>, Numbers)]) -> Option<Vec<u8>> {
    let text = |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let long = |n: usize| [b"\x8a\x08", &(n as u64).to_le_bytes()[..]].concat();
    let tuple =
        |numbers: &[usize]| [b"(", &numbers.iter().flat_map(|n| long(*n)).collect::<Vec<_>>()[..], b"t"].concat();
    let mut pickle = b"\x80\x02}(".to_vec();
    let mut files =
        vec![("archive/data.pkl".to_owned(), Vec::new()), ("archive/byteorder".to_owned(), b"little".to_vec())];
    for (number, (name, shape, numbers)) in tensors.iter().enumerate() {
        let (class, data): (&str, Vec<u8>) = match numbers {
            Numbers::F32(numbers) => ("FloatStorage", numbers.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Numbers::I32(numbers) => ("IntStorage", numbers.iter().flat_map(|x| x.to_le_bytes()).collect()),
        };
        let mut strides = vec![1; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i] * shape[i];
        }
        let class = format!("ctorch\n{class}\n");
        let storage =
            [&text("storage")[..], class.as_bytes(), &text(&number.to_string()), &text("cpu"), &long(data.len() / 4)];
        pickle.extend([&text(name)[..], b"ctorch._utils\n_rebuild_tensor_v2\n((", &storage.concat(), b"tQ"].concat());
        // From its first number on, no gradient, no hooks.
        pickle.extend([&long(0)[..], &tuple(shape), &tuple(&strides), b"\x89ccollections\nOrderedDict\n)RtR"].concat());
        files.push((format!("archive/data/{number}"), data));
    }
    pickle.extend(b"u.");
    files[0].1 = pickle;
    files.push(("archive/version".to_owned(), b"3\n".to_vec()));
    archive(&files)
}
