"""PyTorch's and NVIDIA's pickled files, read as data: nothing in them is ever run.

A pickle is a program that may call anything. This reader knows the few names that model files need
and rebuilds plain containers and tensors; whatever else is named becomes a `ForeignObject`, which
holds data and does nothing, and what only attacks need is refused by name. Tensors stay in the file
until they are read one by one, so that the discriminator and the optimisers of a training file cost
nothing, and a file can claim no more memory than it has bytes.

Sources: Python's `pickletools` for the instructions; `torch.serialization` for the three layouts
(zip archive, the older sequence of pickles, TorchScript); `torch_utils/persistence.py` of NVIDIA's
StyleGAN2-ADA for objects that carry their class's source code, which is ignored here.
"""

import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from nada.formats.files import LONGEST_NAME
from nada.formats.messages import brief, first_line, is_small_int
from nada.formats.slices import Budget, FileSlice, PickleError, Storage, TextSlice, lazy_tensor

TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # what an older PyTorch file starts with
PACKED = (".pt", ".pth", ".pkl", ".safetensors")  # what people pack into archives
INSTRUCTIONS = 3 << 20  # most bytes read or copied that are not tensors; NVIDIA's take 1.8 million
LONG_TEXT = 4096  # bytes; longer texts are numbers in disguise or programs, and stay in the file


@dataclass(eq=False, slots=True)
class ForeignObject:
    """An object of a class that is not here, as data: it stands for what nobody rebuilds.

    Args:
        name: of its class, or of the function that would have made it.
        state: its attributes.
        args: what it would have been made from.
        items: its entries, if it is a kind of dict.
    """

    name: str
    state: object = None
    args: tuple = ()
    items: dict | None = None


@contextmanager
def reading_pickle(path: Path) -> Iterator[object]:
    """What a PyTorch or NVIDIA file holds: containers, numbers, `LazyTensor`, `ForeignObject`, and
    long texts and bytes as `TextSlice` and `FileSlice`.

    The tensors can be read until the context ends.

    Raises:
        PickleError: damaged, or with a name in it that only a program needs.
    """
    with path.open("rb") as file:
        try:
            whole = FileSlice(file, 0, path.stat().st_size, Budget(INSTRUCTIONS))
            contents = _read_slice(whole)
        except PickleError as error:
            raise PickleError(f"{path.name} {error}") from error
        except Exception as error:  # damaged instructions can raise anything
            raise PickleError(
                f"{path.name} cannot be read as a PyTorch file ({first_line(error)}): it is cut "
                "off, damaged or another kind of file; copy or download it again."
            ) from error
        yield contents


# The layouts


def _read_slice(data: FileSlice) -> object:
    head = data.read(2)
    data.seek(0)
    if head == b"PK":
        return _read_archive(data)
    if head[:1] != b"\x80":
        raise PickleError("is no PyTorch file: a .pt, .pkl or .safetensors file was expected.")
    first = Reader(data).load()
    return _read_sequence(data) if first == TORCH_MAGIC else first


def _read_archive(data: FileSlice) -> object:
    """The zip layout: `NAME/data.pkl`, and one uncompressed record `NAME/data/KEY` a storage."""
    with zipfile.ZipFile(data) as archive:
        records = {info.filename: info for info in archive.infolist()}
        if len(records) < len(archive.infolist()):
            raise PickleError("holds two records of one name: get the file from its source again.")
    pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        packed = next((name for name in records if name.endswith(PACKED)), None)
        hint = f": unpack it, and give {brief(packed)} in it" if packed else ""
        raise PickleError(
            f"is a zip archive, but none that PyTorch wrote: it has no 'data.pkl'{hint}."
        )
    root = pickles[0].removesuffix("data.pkl")
    order = records.get(f"{root}byteorder")
    if order and _record(data, order).read() != b"little":
        raise PickleError("was written on a big-endian machine: save it on a usual one.")

    def storage(dtype: torch.dtype, key: str, length: int) -> Storage:
        record = _record(data, records[f"{root}data/{key}"])
        return Storage(lambda: record, dtype, _fitting(length, dtype, record.length))

    return Reader(_record(data, records[pickles[0]]), storage).load()


def _record(data: FileSlice, info: zipfile.ZipInfo) -> FileSlice:
    """Where a record lies. PyTorch never compresses: one that is could unpack to any size."""
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise PickleError(
            f"holds the compressed record {info.filename[-40:]!r}, which PyTorch never writes: "
            "get the file from its source again."
        )
    data.seek(info.header_offset + 26)
    name, extra = struct.unpack("<HH", data.read(4))
    return data.slice(info.header_offset + 30 + name + extra, info.file_size)


def _read_sequence(data: FileSlice) -> object:
    """The older layout: magic number, version, system, contents, keys, then the storages."""
    for _ in range(2):  # the magic number has been read
        Reader(data).load()
    sizes: dict[str, int] = {}
    starts: dict[str, int] = {}

    def storage(dtype: torch.dtype, key: str, length: int) -> Storage:
        sizes[key] = _fitting(length, dtype, data.length) * dtype.itemsize
        return Storage(lambda: data.slice(starts[key], sizes[key]), dtype, length)

    contents = Reader(data, storage).load()
    keys = Reader(data).load()
    position = data.tell()
    for key in map(_key, keys):
        starts[key] = position + 8  # the length stands before the numbers
        position += 8 + sizes[key]
    if position > data.length:
        raise EOFError(f"{position} bytes were announced and {data.length} are there")
    return contents


def _fitting(length: int, dtype: torch.dtype, size: int) -> int:
    """`length`, if so many numbers fit in `size` bytes."""
    if not isinstance(length, int) or not 0 <= length * dtype.itemsize <= size:
        raise PickleError(
            f"claims a tensor of {brief(length)} numbers, and {size} bytes are there."
        )
    return length


# The instructions


@dataclass(frozen=True)
class AllowedName:
    """What stands for a name that a pickle may use: its arguments → data."""

    call: Callable


def _key(key: object) -> object:
    # the hash of nested tuples that share their items takes forever
    if isinstance(key, str | bytes) and len(key) <= LONGEST_NAME:
        return key
    if key is None or isinstance(key, float) or is_small_int(key):
        return key
    shown = key.beginning() if isinstance(key, TextSlice) else key
    raise PickleError(f"uses {brief(shown)} as a name, which no model file does.")


def _pairs(items=()) -> dict:
    return {_key(key): value for key, value in (items.items() if type(items) is dict else items)}


def _persistent(meta: dict) -> ForeignObject:
    """NVIDIA's `_reconstruct_persistent_obj`: the class's source code is not even looked at."""
    return ForeignObject(brief(meta.get("class_name")), meta.get("state"))


def _encode(text: str | TextSlice, *_) -> bytes | TextSlice:
    """Bytes as protocol 2 spells them: a text of their numbers; a long one stays in the file."""
    return text if isinstance(text, TextSlice) else text.encode("latin1")


def _foreign(name: str) -> AllowedName:
    return AllowedName(lambda *args: ForeignObject(name, None, args))


def _tensor(storage: object, *args) -> object:
    if isinstance(storage, ForeignObject):
        return ForeignObject("torch.Tensor")
    return lazy_tensor(storage, *args)


def _bare(kind: object, *_) -> ForeignObject:
    """`copyreg._reconstructor`: an object of a class, without having called the class."""
    return kind.call() if isinstance(kind, AllowedName) else ForeignObject(brief(kind))


def _of_subclass(rebuild: object, _, args: tuple, state: object = None) -> object:
    """`torch._tensor._rebuild_from_type_v2`: a tensor that has attributes."""
    if (
        rebuild not in (KNOWN[f"torch._utils.{name}"] for name in REBUILT)
        or type(args) is not tuple
    ):
        return ForeignObject("torch.Tensor", state)
    return rebuild.call(*args)


DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
REBUILT = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
KNOWN = {
    "collections.OrderedDict": AllowedName(_pairs),
    "collections.defaultdict": AllowedName(lambda *_: {}),
    "builtins.dict": AllowedName(_pairs),
    "dnnlib.util.EasyDict": AllowedName(_pairs),
    "builtins.set": AllowedName(list),
    "copyreg._reconstructor": AllowedName(_bare),
    "copy_reg._reconstructor": AllowedName(_bare),
    "_codecs.encode": AllowedName(_encode),
    "torch.Size": AllowedName(tuple),
    "torch._utils._rebuild_tensor_v2": AllowedName(_tensor),
    "torch._utils._rebuild_tensor": AllowedName(_tensor),
    "torch._utils._rebuild_parameter": AllowedName(lambda tensor, *_: tensor),
    "torch._utils._rebuild_parameter_with_state": AllowedName(lambda tensor, *_: tensor),
    "torch._tensor._rebuild_from_type_v2": AllowedName(_of_subclass),
    "torch.jit._pickle.restore_type_tag": AllowedName(lambda value, *_: value),
    "torch_utils.persistence._reconstruct_persistent_obj": AllowedName(_persistent),
    **{
        f"torch.jit._pickle.build_{kind}list": AllowedName(list)
        for kind in ("int", "double", "bool", "tensor")
    },
    **{
        f"torch.{str(dtype).removeprefix('torch.')}": _foreign(str(dtype))
        for dtype in DTYPES.values()
    },
}


# Modules that a file of data has no use for, though a program in a file may. Nothing of any module
# is ever imported; to say what the file asks for is a service to whoever opens it elsewhere.
PROGRAMS = frozenset(
    "os posix nt subprocess sys importlib runpy shutil socket ctypes pty webbrowser marshal".split()
)
TYPES_OF_DATA = frozenset(
    "bool bytearray bytes classmethod complex dict float frozenset getattr int list object "
    "long property range set slice staticmethod str tuple type unicode xrange".split()
)  # of builtins


def _runs_programs(module: str, name: str) -> bool:
    if module == "builtins":
        return name not in TYPES_OF_DATA
    return module.partition(".")[0] in PROGRAMS


class Reader(pickle._Unpickler):  # the one in Python: its memo cannot be made to swallow memory
    """Python's unpickler with every instruction that could do more than build data taken out.

    Args:
        data: where the pickle lies.
        storage: makes a `Storage` of a dtype, a key and a length, where the layout has them.
    """

    def __init__(self, data: FileSlice, storage: Callable | None = None):
        super().__init__(data, encoding="latin1")
        self.data, self.storage = data, storage

    def load(self) -> object:
        try:
            return super().load()
        except KeyError as error:
            if isinstance(error.args[0], int):
                raise PickleError(
                    "uses an instruction that no model file needs: it is no model, or damaged."
                ) from error
            raise

    def find_class(self, module: str, name: str) -> object:
        module = module.replace("__builtin__", "builtins")
        known = f"{module}.{name}"
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if known == "torch.storage._load_from_bytes":
            return AllowedName(self._from_bytes)
        if _runs_programs(module, name):
            raise PickleError(
                f"asks for {known[:80]!r}, which only a program needs: nothing of it was run. "
                "A file that holds weights alone was expected."
            )
        return KNOWN.get(known) or _foreign(known[:LONGEST_NAME])

    def persistent_load(self, pid: tuple) -> object:
        if type(pid) is not tuple or len(pid) < 2:
            raise PickleError("refers to something that is no tensor.")
        if pid[0] == "module":  # a class, as an older PyTorch wrote it together with its source
            return pid[1]
        kind, dtype, key, _, length, *view = pid
        if kind != "storage" or any(view) or not self.storage:
            raise PickleError("refers to something that is no tensor.")
        if not isinstance(dtype, torch.dtype):  # of a kind that no generator has
            return ForeignObject("torch.storage")
        return self.storage(dtype, _key(key), length)

    def load_reduce(self) -> None:
        args = self.stack.pop()
        if type(args) is not tuple:
            raise PickleError("calls something without a tuple of arguments.")
        # a call may copy its arguments, and a pickle can name the same ones again and again
        copied = [arg for arg in args if isinstance(arg, str | bytes | tuple | list | dict)]
        self.data.budget.spend(len(args) + sum(map(len, copied)))
        self.stack[-1] = self._known(self.stack[-1])(*args)

    def load_build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], ForeignObject):
            self.stack[-1].state = state
        elif type(self.stack[-1]) is not dict:  # a state dict's own attributes say nothing
            raise PickleError("changes an object that is plain data.")

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append(_pairs(zip(items[::2], items[1::2])))

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._into().update(_pairs([(key, value)]))

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._into().update(_pairs(zip(items[::2], items[1::2])))

    def load_empty_set(self) -> None:
        self.append([])

    def load_additems(self) -> None:
        self._extend(self.pop_mark())

    def load_frozenset(self) -> None:
        self.append(self.pop_mark())

    def _extend(self, items: list) -> None:
        if type(self.stack[-1]) is list:
            self.stack[-1] += items
        elif not isinstance(self.stack[-1], ForeignObject):  # whose elements nobody needs
            raise PickleError("fills an object that is no list.")

    def load_newobj(self) -> None:
        self.load_reduce()

    def load_newobj_ex(self) -> None:
        self.stack.pop()  # arguments by name, of a class that is not called
        self.load_reduce()

    def load_append(self) -> None:
        self._extend([self.stack.pop()])

    def load_appends(self) -> None:
        self._extend(self.pop_mark())

    def load_frame(self) -> None:
        """Frames are for reading ahead, which `FileSlice` does; a tensor may lie in one."""
        self.data.slice(self.data.tell(), self._length("<Q"))  # or a sentence

    def load_binbytes(self) -> None:
        self.append(self._stay(self._length("<I")))

    def load_binbytes8(self) -> None:
        self.append(self._stay(self._length("<Q")))

    def load_bytearray8(self) -> None:
        self.append(self._stay(self._length("<Q")))

    def load_binunicode(self) -> None:
        self._text(self._length("<I"))

    def load_binunicode8(self) -> None:
        self._text(self._length("<Q"))

    def load_binstring(self) -> None:
        """A string of Python 2, which has one type for texts and bytes."""
        length = self._length("<I")
        long = length > LONG_TEXT
        self.append(self._stay(length) if long else self.read(length).decode("latin1"))

    def _text(self, length: int) -> None:
        if length > LONG_TEXT:
            self.append(TextSlice(self._stay(length)))
        else:
            self.append(str(self.read(length), "utf-8", "surrogatepass"))

    def _length(self, width: str) -> int:
        return struct.unpack(width, self.read(struct.calcsize(width)))[0]

    def _stay(self, length: int) -> FileSlice:
        """The next bytes, which may be a tensor's: they stay in the file."""
        start = self.data.tell()
        data = self.data.slice(start, length)
        self.data.seek(start + length)
        return data

    def _from_bytes(self, data: FileSlice | TextSlice | bytes, *_) -> object:
        """`torch.storage._load_from_bytes`: an archive within the file, at the file's expense."""
        if isinstance(data, TextSlice):
            self.data.budget.spend(data.length)
            data = data.encoded()
        if isinstance(data, bytes):
            data = FileSlice(io.BytesIO(data), 0, len(data), self.data.budget)
        return _read_slice(data)

    def _into(self) -> dict:
        top = self.stack[-1]
        if isinstance(top, ForeignObject):
            top.items = {} if top.items is None else top.items
            return top.items
        if type(top) is not dict:
            raise PickleError("fills an object that is no dict.")
        return top

    def _known(self, name: object) -> Callable:
        if isinstance(name, ForeignObject):  # a placeholder's method, or the like of it
            return _foreign(name.name).call
        if not isinstance(name, AllowedName):
            raise PickleError("calls something that is plain data.")
        return name.call


LEFT_OUT = "INST OBJ EXT1 EXT2 EXT4 PERSID NEXT_BUFFER READONLY_BUFFER STRING"
Reader.dispatch = {
    code: getattr(Reader, method.__name__)  # the table names functions: take the ones from here
    for code, method in pickle._Unpickler.dispatch.items()
    if code not in [getattr(pickle, name)[0] for name in LEFT_OUT.split()]
}
