/* SHA-256 (FIPS 180-4) of two messages at once, with the SHA extensions of x86-64 processors; and whole files to hash.
 *
 * One message keeps such a processor waiting: each sha256rnds2 needs the result of the one before it, several cycles
 * later, though another could start every other cycle. Two messages in lockstep fill each other's gaps. Threads that
 * hash so fast would wait for the interpreter lock if every open, fstat, read and close took it back: read_file does
 * all four without it.
 *
 * Where it cannot run, importing it raises ImportError; secpipeline/paired_sha256.py then leaves hashing to hashlib.
 */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#if defined(__x86_64__) && defined(__GNUC__)

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SHA_CODE __attribute__((target("sha,sse4.1,ssse3")))
#define SHA_INLINE static inline SHA_CODE __attribute__((always_inline))

enum { BLOCK = 64, DIGEST = 32, LENGTH_FIELD = 8 };

/* The eight words of a hash's state, in the order that sha256rnds2 takes them. */
typedef struct {
    __m128i abef, cdgh;
} State;

static const uint32_t ROUND_CONSTANTS[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

/* The bytes of each 32-bit word in the other order: SHA-256 is big-endian, the processor is not. */
SHA_INLINE __m128i swap_bytes(__m128i words) {
    return _mm_shuffle_epi8(words, _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203));
}

SHA_INLINE State fresh(void) {
    State state = {
        _mm_set_epi32(0x6a09e667, (int)0xbb67ae85, 0x510e527f, (int)0x9b05688c),
        _mm_set_epi32(0x3c6ef372, (int)0xa54ff53a, 0x1f83d9ab, 0x5be0cd19),
    };
    return state;
}

SHA_INLINE State sum_of(State one, State other) {
    State sum = {_mm_add_epi32(one.abef, other.abef), _mm_add_epi32(one.cdgh, other.cdgh)};
    return sum;
}

SHA_INLINE void load(__m128i words[4], const uint8_t *block) {
    for (int i = 0; i < 4; i++)
        words[i] = swap_bytes(_mm_loadu_si128((const __m128i *)(block + 16 * i)));
}

/* Rounds 4 * step to 4 * step + 3; then the schedule words that they used make place for those of 16 rounds later. */
SHA_INLINE void four_rounds(State *state, __m128i words[4], int step) {
    __m128i *w0 = &words[step % 4], w1 = words[(step + 1) % 4], w2 = words[(step + 2) % 4], w3 = words[(step + 3) % 4];
    __m128i keyed = _mm_add_epi32(*w0, _mm_loadu_si128((const __m128i *)(ROUND_CONSTANTS + 4 * step)));
    state->cdgh = _mm_sha256rnds2_epu32(state->cdgh, state->abef, keyed);
    state->abef = _mm_sha256rnds2_epu32(state->abef, state->cdgh, _mm_shuffle_epi32(keyed, 0x0e));
    if (step < 12)
        *w0 = _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(*w0, w1), _mm_alignr_epi8(w3, w2, 4)), w3);
}

SHA_CODE static void compress(State *state, const uint8_t *data, size_t blocks) {
    State before, now = *state;
    __m128i words[4];
    for (; blocks; blocks--, data += BLOCK) {
        before = now;
        load(words, data);
#pragma GCC unroll 16
        for (int step = 0; step < 16; step++)
            four_rounds(&now, words, step);
        now = sum_of(now, before);
    }
    *state = now;
}

/* As a call of compress for each, in about the time of one. */
SHA_CODE static void compress_both(State states[2], const uint8_t *one, const uint8_t *other, size_t blocks) {
    State before_a, before_b, a = states[0], b = states[1];
    __m128i words_a[4], words_b[4];
    for (; blocks; blocks--, one += BLOCK, other += BLOCK) {
        before_a = a;
        before_b = b;
        load(words_a, one);
        load(words_b, other);
#pragma GCC unroll 16
        for (int step = 0; step < 16; step++) {
            four_rounds(&a, words_a, step);
            four_rounds(&b, words_b, step);
        }
        a = sum_of(a, before_a);
        b = sum_of(b, before_b);
    }
    states[0] = a;
    states[1] = b;
}

/* The message from byte `done` on, a multiple of 64, with its padding: a one bit, zeros, its length in bits. */
SHA_CODE static void finish(State *state, const uint8_t *data, size_t length, size_t done, uint8_t digest[DIGEST]) {
    size_t blocks = (length - done) / BLOCK, rest = length % BLOCK;
    uint8_t tail[2 * BLOCK] = {0};
    size_t tail_length = rest + 1 + LENGTH_FIELD <= BLOCK ? BLOCK : 2 * BLOCK;
    if (blocks)
        compress(state, data + done, blocks);
    if (rest)
        memcpy(tail, data + length - rest, rest);
    tail[rest] = 0x80;
    for (int i = 0; i < LENGTH_FIELD; i++)
        tail[tail_length - 1 - i] = (uint8_t)((uint64_t)length * 8 >> 8 * i);
    compress(state, tail, tail_length / BLOCK);

    __m128i feba = _mm_shuffle_epi32(state->abef, 0x1b), dchg = _mm_shuffle_epi32(state->cdgh, 0xb1);
    __m128i dcba = _mm_blend_epi16(feba, dchg, 0xf0), hgfe = _mm_alignr_epi8(dchg, feba, 8);
    _mm_storeu_si128((__m128i *)digest, swap_bytes(dcba));
    _mm_storeu_si128((__m128i *)(digest + 16), swap_bytes(hgfe));
}

SHA_CODE static void hash_both(const Py_buffer views[2], uint8_t digests[2][DIGEST]) {
    const uint8_t *one = views[0].buf, *other = views[1].buf;
    size_t length_one = (size_t)views[0].len, length_other = (size_t)views[1].len;
    size_t common = (length_one < length_other ? length_one : length_other) / BLOCK;
    State states[2] = {fresh(), fresh()};
    compress_both(states, one, other, common);
    finish(&states[0], one, length_one, common * BLOCK, digests[0]);
    finish(&states[1], other, length_other, common * BLOCK, digests[1]);
}

/* Asked of the processor itself: __builtin_cpu_supports does not know "sha" before GCC 11. */
static int processor_can(void) {
    unsigned int eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_SSSE3) || !(ecx & bit_SSE4_1))
        return 0;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ebx & 1u << 29);
}

static PyObject *pair(PyObject *module, PyObject *args) {
    Py_buffer views[2];
    uint8_t digests[2][DIGEST];
    (void)module;
    if (!PyArg_ParseTuple(args, "y*y*:pair", &views[0], &views[1]))
        return NULL;
    Py_BEGIN_ALLOW_THREADS;
    hash_both(views, digests);
    Py_END_ALLOW_THREADS;
    PyBuffer_Release(&views[0]);
    PyBuffer_Release(&views[1]);
    return Py_BuildValue("(y#y#)", digests[0], (Py_ssize_t)DIGEST, digests[1], (Py_ssize_t)DIGEST);
}

/* What a file was found to be; what that means is the caller's to judge. */
typedef struct {
    int error; /* errno of the call that failed, or 0 */
    mode_t mode;
    off_t size;
    size_t count; /* bytes that were read */
} Facts;

/* To the size that fstat tells, and on into the rest of the buffer: bytes that come there prove that the file grew. */
static void read_open_file(int descriptor, uint8_t *buffer, size_t length, Facts *facts) {
    struct stat status;
    ssize_t count;
    if (fstat(descriptor, &status)) {
        facts->error = errno;
        return;
    }
    facts->mode = status.st_mode;
    facts->size = status.st_size;
    if (!S_ISREG(status.st_mode) || status.st_size < 0 || (size_t)status.st_size >= length)
        return;
    do {
        count = read(descriptor, buffer + facts->count, length - facts->count);
        if (count < 0) {
            facts->error = errno;
            return;
        }
        facts->count += (size_t)count;
    } while (count && facts->count < (size_t)facts->size);
}

/* An interrupted call is not repeated here: EINTR takes the caller back to Python, which runs its signal handlers. */
static Facts look_into(const char *path, int flags, uint8_t *buffer, size_t length) {
    Facts facts = {0};
    int descriptor = open(path, flags);
    if (descriptor < 0) {
        facts.error = errno;
        return facts;
    }
    read_open_file(descriptor, buffer, length, &facts);
    close(descriptor); /* its result says nothing: nothing was written */
    return facts;
}

static PyObject *read_file(PyObject *module, PyObject *args) {
    PyObject *path;
    Py_buffer buffer;
    Facts facts;
    int flags;
    (void)module;
    if (!PyArg_ParseTuple(args, "O&iw*:read_file", PyUnicode_FSConverter, &path, &flags, &buffer))
        return NULL;
    const char *name = PyBytes_AsString(path);
    Py_BEGIN_ALLOW_THREADS;
    facts = look_into(name, flags, buffer.buf, (size_t)buffer.len);
    Py_END_ALLOW_THREADS;
    PyBuffer_Release(&buffer);
    Py_DECREF(path);
    return Py_BuildValue("(iLLn)", facts.error, (long long)facts.mode, (long long)facts.size, (Py_ssize_t)facts.count);
}

PyDoc_STRVAR(pair_text, "pair(first, second, /)\n--\n\nSHA-256 of two bytes-like objects, as a tuple of bytes.");
PyDoc_STRVAR(read_file_text, "read_file(path, flags, buffer, /)\n--\n\n"
    "Open a file with these flags and read it, if it is a plain one of fewer bytes than the buffer has.\n\n"
    "Returns errno or 0, the mode, the size when it was opened, and how many bytes were read, up to the buffer's.");

static PyMethodDef methods[] = {
    {"pair", pair, METH_VARARGS, pair_text},
    {"read_file", read_file, METH_VARARGS, read_file_text},
    {NULL, NULL, 0, NULL},
};

#else

static PyMethodDef methods[] = {{NULL, NULL, 0, NULL}};

static int processor_can(void) { return 0; }

#endif

static int load_module(PyObject *module) {
    (void)module;
    if (processor_can())
        return 0;
    PyErr_SetString(PyExc_ImportError, "this processor has no SHA-256 instructions of x86-64");
    return -1;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, load_module}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_paired_sha256",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__paired_sha256(void) { return PyModuleDef_Init(&definition); }
