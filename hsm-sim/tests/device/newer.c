/* A module of PKCS#11 3.0 with one token and one key, for `newer.rs`: as much of it as that needs. A signature says how
   often C_Sign has been called for one. */

#include <string.h>

typedef unsigned long ulong;
typedef ulong (*function)();

enum { OK = 0, FUNCTION_FAILED = 6, SESSION_HANDLE_INVALID = 0xb3, OPERATION_ACTIVE = 0x90, OPERATION_NOT_INITIALIZED = 0x91 };
enum { SLOT = 7, SESSION = 77, KEY = 5 };

struct list { unsigned char major, minor; function functions[92]; };
struct interface { const char *name; void *list; ulong flags; };

static int signing, found, signatures;

static ulong yes() { return OK; }

static ulong slots(unsigned char present, ulong *list, ulong *count) {
    if (list) *list = SLOT;
    *count = 1;
    return OK;
}

static ulong token_info(ulong slot, char *info) {
    memset(info, 0, 208);
    memset(info, ' ', 96);
    memcpy(info, "newer", 5);
    *(ulong *)(info + 96) = 0x400; /* CKF_TOKEN_INITIALIZED */
    return OK;
}

static ulong open_session(ulong slot, ulong flags, void *application, void *notify, ulong *session) {
    *session = SESSION;
    return OK;
}

static ulong find_init() { found = 0; return OK; }

static ulong find(ulong session, ulong *objects, ulong most, ulong *count) {
    *count = !found;
    if (!found) *objects = KEY;
    found = 1;
    return OK;
}

static ulong sign_init() {
    if (signing) return OPERATION_ACTIVE;
    signing = 1;
    return OK;
}

static ulong sign(ulong session, void *input, ulong input_length, unsigned char *output, ulong *length) {
    if (!signing) return OPERATION_NOT_INITIALIZED;
    *length = 1;
    if (!output) return OK;
    *output = ++signatures;
    signing = 0;
    return OK;
}

static ulong cancel(ulong session, ulong flags) {
    if (!(flags & 0x800)) return FUNCTION_FAILED; /* CKF_SIGN */
    signing = 0;
    return OK;
}

static ulong of_session(ulong session) { return session == SESSION ? OK : SESSION_HANDLE_INVALID; }

static struct list newer = { 3, 0, { 0 } }, older = { 2, 40, { 0 } };
static struct interface interface = { "PKCS 11", &newer, 0 };

__attribute__((constructor)) static void fill(void) {
    function *f = newer.functions;
    f[0] = f[1] = f[13] = f[28] = (function)yes; /* C_Initialize, C_Finalize, C_CloseSession, C_FindObjectsFinal */
    f[4] = (function)slots;
    f[6] = (function)token_info;
    f[12] = (function)open_session;
    f[26] = (function)find_init;
    f[27] = (function)find;
    f[42] = (function)sign_init;
    f[43] = (function)sign;
    f[71] = (function)cancel;
    f[72] = (function)of_session; /* C_MessageEncryptInit; not its end, which is 76 */
    memcpy(older.functions, f, sizeof older.functions);
}

ulong C_GetFunctionList(struct list **list) { *list = &older; return OK; }

ulong C_GetInterface(const char *name, const unsigned char *version, struct interface **found, ulong flags) {
    *found = &interface;
    return OK;
}
