//! Files of torch and numpy hold what torch and numpy read of them (`bench/peers/tensor_files.py`), and hostile ones are errors.

use directrix_model::{Error, Folder, Leaf, Tensors};
use proptest::prelude::*;

fn fixtures() -> Folder {
    Folder::open(format!("{}/tests/fixtures/tensor-files", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn open(name: &str, bytes: Vec<u8>) -> directrix_model::Result<Tensors> {
    Tensors::open(&Folder::in_memory("x", [(name.to_owned(), bytes)]), Some(name))
}

/// Everything that a file holds; what is wrong with it comes back as an error.
fn read_all(tensors: &Tensors) -> directrix_model::Result<usize> {
    let mut numbers = 0;
    for name in tensors.names() {
        let shape = tensors.shape(name)?;
        numbers += match tensors.get(name, &shape) {
            Err(Error::Dtype { .. }) => tensors.integers(name)?.len(),
            found => found?.len(),
        };
    }
    Ok(numbers)
}

#[test]
fn files_hold_what_torch_and_numpy_read_of_them() {
    let folder = fixtures();
    let mut checked = 0;
    for name in folder.names().unwrap().iter().filter(|name| !name.ends_with(".safetensors")) {
        let tensors = Tensors::open(&folder, Some(name)).unwrap();
        let expected = Tensors::open(&folder, Some(&format!("{name}.safetensors"))).unwrap();
        assert!(tensors.names().eq(expected.names()), "{name}");
        for tensor in expected.names() {
            let shape = expected.shape(tensor).unwrap();
            let wanted = expected.get(tensor, &shape).unwrap();
            let found = match tensors.get(tensor, &shape) {
                Err(Error::Dtype { .. }) => tensors.integers(tensor).unwrap().into_iter().map(|n| n as f32).collect(),
                found => found.unwrap(),
            };
            assert_eq!(found, wanted, "{name}: {tensor}");
            checked += 1;
        }
        if name.strip_suffix(".npz").is_none() {
            assert_eq!(tensors.leaf("name"), Some(&Leaf::Text("text ü".into())));
            assert_eq!(tensors.leaf("flag"), Some(&Leaf::Bool(true)));
            assert_eq!(tensors.leaf("numpy32"), Some(&Leaf::Float(1.5)));
            assert!(matches!(tensors.leaf("step"), Some(Leaf::Int(_))) && tensors.leaf("none").is_none());
        }
    }
    assert!(checked > 100, "{checked}");
}

/// Cut anywhere, or with any byte changed, a file is read or refused; nothing panics.
#[test]
fn a_damaged_file_is_read_or_refused() {
    let folder = fixtures();
    for name in folder.names().unwrap().into_iter().filter(|name| name.starts_with('0')) {
        let whole = folder.read(&name).unwrap().to_vec();
        for len in 0..whole.len() {
            let cut = open(&name, whole[..len].to_vec()).and_then(|tensors| read_all(&tensors));
            let end = name.rsplit('.').next().unwrap();
            // The comment of an archive and what follows the numbers of the older form can be cut without a loss.
            assert!(cut.is_err() || end == "pth", "{name} cut to {len} bytes is read");
        }
        for place in 0..whole.len() {
            for mask in [0x01, 0x80, 0xFF] {
                let mut flipped = whole.clone();
                flipped[place] ^= mask;
                if let Err(error) = open(&name, flipped).and_then(|tensors| read_all(&tensors)) {
                    assert!(error.to_string().contains(&name), "{error}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), protocol in 0..3_usize) {
        let start: &[u8] = [&b"\x80\x02"[..], b"\x80\x04\x95\0\0\0\0\0\0\0\0", b""][protocol];
        let pickle = [start, &bytes[..]].concat();
        if let Ok(tensors) = open("a.pt", torch(&pickle, &[0; 64])) {
            let _ = read_all(&tensors);
        }
        let _ = open("a.npz", zip(&[("a.npy", &bytes)])).and_then(|tensors| read_all(&tensors));
        let _ = open("a.pt", bytes);
    }
}

/// A zip archive of stored files.
fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in files {
        let mut crc = flate2::Crc::new();
        crc.update(data);
        let [len, crc, start] = [data.len() as u32, crc.sum(), bytes.len() as u32].map(u32::to_le_bytes);
        let name_len = (name.len() as u16).to_le_bytes();
        let shared = [&[20, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &crc, &len, &len, &name_len, &[0, 0]].concat();
        bytes.extend([b"PK\x03\x04", &shared[..], name.as_bytes(), data].concat());
        directory.extend([b"PK\x01\x02\x14\0", &shared[..], &[0; 10], &start, name.as_bytes()].concat());
    }
    let count = (files.len() as u16).to_le_bytes();
    let [size, start] = [directory.len() as u32, bytes.len() as u32].map(u32::to_le_bytes);
    [&bytes[..], &directory, b"PK\x05\x06\0\0\0\0", &count, &count, &size, &start, &[0, 0]].concat()
}

/// A file of torch with this pickle and one storage, `0`.
fn torch(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    zip(&[("a/data.pkl", pickle), ("a/byteorder", b"little"), ("a/data/0", storage)])
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn int(n: i32) -> Vec<u8> {
    [b"J", &n.to_le_bytes()[..]].concat()
}

fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(", &items.concat()[..], b"t"].concat()
}

fn ints(numbers: &[i32]) -> Vec<u8> {
    tuple(&numbers.iter().copied().map(int).collect::<Vec<_>>())
}

/// A tensor of 16 floats of storage `0`.
fn tensor(offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    let id = tuple(&[text("storage"), b"ctorch\nFloatStorage\n".to_vec(), text("0"), text("cpu"), int(16)]);
    let hooks = b"ccollections\nOrderedDict\n)R".to_vec();
    let view = [[&id[..], b"Q"].concat(), int(offset), ints(shape), ints(strides), b"\x89".to_vec(), hooks];
    [b"ctorch._utils\n_rebuild_tensor_v2\n", &tuple(&view)[..], b"R"].concat()
}

fn dict(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<u8> = items.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [b"}(", &items[..], b"u"].concat()
}

fn pickle(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02", value, b"."].concat()
}

#[test]
fn a_view_of_a_storage_is_read_where_it_lies_within_it() {
    let numbers: Vec<u8> = (0..16).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let read = |offset, shape: &[i32], strides: &[i32]| {
        let file = torch(&pickle(&dict(&[("w", tensor(offset, shape, strides))])), &numbers);
        open("a.pt", file).and_then(|tensors| tensors.get("w", &shape.iter().map(|n| *n as usize).collect::<Vec<_>>()))
    };
    assert_eq!(read(0, &[2, 3], &[1, 2]).unwrap(), [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
    assert_eq!(read(5, &[3], &[4]).unwrap(), [5.0, 9.0, 13.0]);
    assert_eq!(read(15, &[1, 1], &[0, 100]).unwrap(), [15.0]);
    assert_eq!(read(16, &[0], &[1]).unwrap(), [0.0; 0]);
    assert_eq!(read(3, &[], &[]).unwrap(), [3.0]);
    for (offset, shape, strides, expected) in [
        (0, &[17][..], &[1][..], "its storage has 16 elements"),
        (1, &[16], &[1], "its storage has 16 elements"),
        (i32::MAX, &[1], &[1], "its storage has 16 elements"),
        (0, &[2, 2], &[8, i32::MAX], "its storage has 16 elements"),
        (0, &[i32::MAX, i32::MAX, i32::MAX, i32::MAX], &[1, 2, 3, 4], "its elements overlap"),
        (0, &[1_000_000], &[0], "its elements overlap"),
        (0, &[3, 3], &[1, 2], "its elements overlap"),
        (-1, &[1], &[1], "arguments that are not its own"),
        (0, &[-1], &[1], "arguments that are not its own"),
        (0, &[2], &[1, 1], "arguments that are not its own"),
        (0, &[1; 65], &[1; 65], "arguments that are not its own"),
    ] {
        let error = read(offset, shape, strides).unwrap_err().to_string();
        assert!(error.starts_with("x/a.pt: ") && error.contains(expected), "{error}");
    }
}

#[test]
fn a_pickle_that_wants_more_than_tensors_is_refused_by_name() {
    let refused = |value: &[u8]| open("a.bin", torch(&pickle(value), &[0; 64])).err().unwrap().to_string();
    for (value, expected) in [
        (
            &b"cos\nsystem\n(X\x02\0\0\0lstR"[..],
            "names `os.system`, which is no part of tensors; nothing of it was run",
        ),
        (b"\x8c\x08builtins\x8c\x04eval\x93", "names `builtins.eval`"),
        (b"cposix\nsystem\n", "names `posix.system`"),
        (b"ctorch\nload\n", "names `torch.load`"),
        (b"cnumpy.core.multiarray\n_reconstruct\n", "names `numpy.core.multiarray._reconstruct`"),
        (b"(ios\nsystem\n", "makes an object of a class"),
        (b"ccollections\nOrderedDict\n)\x81", "makes an object of a class"),
        (b"ccollections\nOrderedDict\n}b", "sets the state of an object"),
        (b"ccollections\nOrderedDict\nK\x05\x85R", "arguments that are not its own"),
        (b"K\x05)R", "calls something that is no function"),
        (b"K\x05Q", "refers to something other than a storage"),
        (b"h\x07", "asks for a value that it did not keep"),
        (b"\xFF", "instruction 0xff"),
        (b"0", "takes a value where there is none"),
        (b"(0", "takes a value where there is none"),
        (b"}(K\x01u", "a key without a value"),
        (b"}(Nu", "a key without a value"),
        (b"}NNs", "a key that is neither text nor a whole number"),
        (b"]NNs", "a dictionary that is none"),
        (b"X\xFF\xFF\xFF\xFF", "its pickle is cut short"),
        (b"\x8b\xFF\xFF\xFF\xFF", "its pickle is cut short"),
        (b"X\x01\0\0\0\xFF", "not UTF-8"),
        (b"K\x05", "no dictionary of tensors"),
        (b"]", "no dictionary of tensors"),
    ] {
        let error = refused(value);
        assert!(error.starts_with("x/a.bin: ") && error.contains(expected), "{error}");
    }
    // A dictionary within itself, by the memo; one twice as wide at each of its depths; very many of one key.
    let cyclic = [b"}q\x00", &text("a")[..], b"h\x00s"].concat();
    assert!(refused(&cyclic).contains("within themselves"));
    let mut wide = b"](NNNNeq\x00".to_vec();
    for depth in 1..10 {
        wide.extend([b"0]q", &[depth][..], b"(", &[b'h', depth - 1].repeat(9), b"e"].concat());
    }
    assert!(refused(&dict(&[("a", wide)])).contains("names more than"));
    assert!(refused(&dict(&[("a", int(1)), ("a", int(2))])).contains("holds `a` twice"));
    assert!(refused(&dict(&[("a", dict(&[("b", int(1))])), ("a.b", int(2))])).contains("holds `a.b` twice"));
    assert!(refused(&dict(&[(&"a".repeat(2000), int(1))])).contains("a name of 2000 bytes"));
    assert!(refused(&b"N0".repeat(1 << 22)).contains("makes more than"));
}

/// A file of numpy.
fn array(header: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{header:60}\n");
    [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
}

#[test]
fn an_archive_that_contradicts_itself_is_refused() {
    let refused = |name: &str, file: Vec<u8>| {
        let error = open(name, file).and_then(|tensors| read_all(&tensors)).unwrap_err().to_string();
        assert!(error.starts_with(&format!("x/{name}: ")), "{error}");
        error
    };
    let pickle = pickle(&dict(&[("w", tensor(0, &[16], &[1]))]));
    assert!(open("a.pt", torch(&pickle, &[0; 64])).is_ok());
    assert!(refused("a.pt", torch(&pickle, &[0; 60])).contains("but the file has 60 bytes of it"));
    assert!(refused("a.pt", zip(&[("a/data.pkl", &pickle)])).contains("it lacks `a/data/0`"));
    let big = zip(&[("a/data.pkl", &pickle), ("a/byteorder", b"big"), ("a/data/0", &[0; 64])]);
    assert!(refused("a.pt", big).contains("not little-endian"));
    let twice = zip(&[("a/data.pkl", &pickle), ("a/data/0", &[0; 64]), ("a/data/0", &[1; 64])]);
    assert!(refused("a.pt", twice).contains("holds `a/data/0` twice"));
    assert!(refused("a.pt", zip(&[("b.txt", b"")])).contains("neither torch's nor numpy's"));
    assert!(refused("a.pt", b"hello".to_vec()).contains("neither of torch, nor of numpy, nor safetensors"));
    assert!(refused("a.pt", b"version https://git-lfs.github.com/spec/v1\n".to_vec()).contains("Git LFS"));

    // Two entries at one place; one that is larger than the file; one that says it inflates to very much.
    let file = torch(&pickle, &[0; 64]);
    let record = |file: &[u8], name: &[u8]| {
        let place = file.windows(name.len()).rposition(|part| part == name).unwrap();
        place - 46
    };
    let (first, last) = (record(&file, b"a/data.pkl"), record(&file, b"a/data/0"));
    let mut overlapping = file.clone();
    overlapping.copy_within(first + 42..first + 46, last + 42);
    assert!(refused("a.pt", overlapping).contains("two entries overlap"));
    let mut huge = file.clone();
    huge[last + 20..last + 28].fill(0xFE);
    assert!(refused("a.pt", huge).contains("lies past its end"));
    let mut packed = file.clone();
    packed[last + 10] = 8;
    assert!(refused("a.pt", packed).contains("is compressed, which torch never does"));
    let array = array("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", &[0; 4]);
    assert_eq!(open("a.npz", zip(&[("w.npy", &array)])).unwrap().get("w", &[1]).unwrap(), [0.0]);
    let mut bomb = zip(&[("w.npy", &array)]);
    let place = record(&bomb, b"w.npy");
    (bomb[place + 10], bomb[place + 27]) = (8, 0x7F);
    assert!(refused("a.npz", bomb).contains("it inflates to more than"));
}

#[test]
fn an_array_that_is_no_numbers_is_refused() {
    let refused = |header: &str, data: &[u8]| {
        open("a.npz", zip(&[("w.npy", &array(header, data))])).err().map_or(String::new(), |error| error.to_string())
    };
    assert_eq!(refused("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", &[0; 8]), "");
    for (header, expected) in [
        ("{'descr': '|O', 'fortran_order': False, 'shape': (2,), }", "objects of Python, which are never read"),
        ("{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }", "not little-endian"),
        ("{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }", "its elements are `<c8`"),
        ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}", "records, which are not read"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", "its shape is [3] of 4 bytes each"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999, 9999999999999)}", "its shape is"),
        ("{'descr': '<f4', 'fortran_order': 3, 'shape': (2,), }", "header is not one of numpy"),
        ("{'descr': '<f4', 'shape': (2,), }", "header is not one of numpy"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }", "header is not one of numpy"),
        ("", "header is not one of numpy"),
    ] {
        let error = refused(header, &[0; 8]);
        assert!(error.starts_with("x/a.npz: ") && error.contains("array `w`") && error.contains(expected), "{error}");
    }
}

/// Which of a folder's files are a model's is transformers' rule; whatever else lies beside them is not read.
#[test]
fn the_files_of_a_model_are_those_that_transformers_reads() {
    let of = |value: f32| {
        let bytes = value.to_le_bytes();
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &bytes).unwrap();
        safetensors::serialize([("w", view)], None).unwrap()
    };
    let pickled = |value: f32| torch(&pickle(&dict(&[("w", tensor(0, &[1], &[1]))])), &value.to_le_bytes().repeat(16));
    let index = |file: &str| format!(r#"{{"weight_map": {{"w": "{file}"}}}}"#).into_bytes();
    let mut files = vec![
        ("model.safetensors", of(1.0)),
        ("model.safetensors.index.json", index("shard.safetensors")),
        ("pytorch_model.bin", pickled(3.0)),
        ("pytorch_model.bin.index.json", index("shard.bin")),
        ("shard.safetensors", of(2.0)),
        ("shard.bin", pickled(4.0)),
        ("other.safetensors", of(5.0)),
    ];
    let read = |files: &[(&str, Vec<u8>)]| {
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone()));
        Tensors::open(&Folder::in_memory("x", files), None).and_then(|tensors| tensors.get("w", &[1]))
    };
    for expected in [1.0, 2.0, 3.0, 4.0] {
        assert_eq!(read(&files).unwrap(), [expected]);
        files.remove(0);
    }
    let error = read(&files).unwrap_err().to_string();
    assert!(error.contains("holds none of `model.safetensors`") && error.contains("`other.safetensors`"), "{error}");
    assert!(error.contains("rename it"), "{error}");
    for file in ["../w.bin", "/etc/w.bin", "a\\w.bin", "..", "w.txt", ""] {
        let error = read(&[("pytorch_model.bin.index.json", index(&file.escape_default().to_string()))]).unwrap_err();
        assert!(error.to_string().contains("expected the name of a .safetensors or .bin file beside it"), "{error}");
    }
}
