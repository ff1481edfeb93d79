/* A guest that does one thing: it keeps a counter in its TPM and says what was acknowledged.

   It runs in real mode and drives the TPM itself: the command response buffer at locality 0 (TCG PC
   Client Platform TPM Profile, 6.5.3).  On the serial line, one line for each fact:

     PCR <index> <64 hexadecimal digits>    as this launch found it, SHA-256
     NV none | NV <number>                  the counter as this launch found it
     ACK <number>                           the TPM answered that the counter is this now
     ERR <what> <response code>             the TPM refused; nothing was acknowledged
     END                                    the guest powers off, for its power button was pressed

   It takes single letters: `r` it resets the machine, `o` it powers off, `s` it stands still. */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;

extern void reach_all_memory(void);

enum {
    SERIAL = 0x3f8,
    SERIAL_STATUS = SERIAL + 5,
    SERIAL_RECEIVED = 0x01,
    SERIAL_FREE = 0x20,
    PM1_STATUS = 0x600, /* ICH9 PMBASE, as SeaBIOS sets it */
    PM1_ENABLE = 0x602,
    PM1_CONTROL = 0x604,
    POWER_BUTTON = 1 << 8,
    SLEEP_ENABLE = 1 << 13, /* with sleep type 0: S5 on ICH9 */
    RESET_CONTROL = 0xcf9,
    TIMER = 0x40,
    TIMER_COMMAND = 0x43,
    TIMER_DIVISOR = 1193182 / 125, /* a tick is 8 ms */
    TICKS_BETWEEN_WRITES = 6,
};

/* Offsets in locality 0 */
enum {
    CRB = 0xfed40000,
    CRB_LOCALITY_CONTROL = 0x08,
    CRB_CONTROL_REQUEST = 0x40,
    CRB_CONTROL_START = 0x4c,
    CRB_COMMAND_SIZE = 0x58,
    CRB_DATA = 0x80,
};

/* TPM 2.0 Library, Part 2 */
enum {
    ST_NO_SESSIONS = 0x8001,
    ST_SESSIONS = 0x8002,
    CC_NV_DEFINE_SPACE = 0x12a,
    CC_NV_WRITE = 0x137,
    CC_NV_READ = 0x14e,
    CC_PCR_READ = 0x17e,
    CC_PCR_EXTEND = 0x182,
    RH_OWNER = 0x40000001,
    RS_PW = 0x40000009,
    RC_HANDLE_1 = 0x18b, /* TPM_RC_HANDLE, handle 1: there is no such index */
    ALG_SHA256 = 0x000b,
    NV_INDEX = 0x01500010,
    NV_ATTRIBUTES = 0x00040004 | 0x02000000, /* AUTHREAD, AUTHWRITE, NO_DA */
    COUNTER_SIZE = 4,
    HEADER_SIZE = 10,
    DIGEST_SIZE = 32,
};

static u8 command[256];
static u32 command_size;
static u8 response[512];

static inline void out8(u16 port, u8 value) { __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }
static inline void out16(u16 port, u16 value) { __asm__ volatile("outw %0, %1" ::"a"(value), "Nd"(port)); }
static inline u8 in8(u16 port) { u8 value; __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port)); return value; }
static inline u16 in16(u16 port) { u16 value; __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port)); return value; }

static void wait_a_tick(void) { __asm__ volatile("sti; hlt" ::: "memory"); }

static u32 far_read32(u32 address)
{
    u32 value;
    reach_all_memory();
    __asm__ volatile("addr32 movl %%fs:(%1), %0" : "=r"(value) : "r"(address));
    return value;
}

static void far_write32(u32 address, u32 value)
{
    reach_all_memory();
    __asm__ volatile("addr32 movl %0, %%fs:(%1)" ::"r"(value), "r"(address) : "memory");
}

static u8 far_read8(u32 address)
{
    u8 value;
    reach_all_memory();
    __asm__ volatile("addr32 movb %%fs:(%1), %0" : "=q"(value) : "r"(address));
    return value;
}

static void far_write8(u32 address, u8 value)
{
    reach_all_memory();
    __asm__ volatile("addr32 movb %0, %%fs:(%1)" ::"q"(value), "r"(address) : "memory");
}

static void say_letter(u8 letter)
{
    while (!(in8(SERIAL_STATUS) & SERIAL_FREE))
        ;
    out8(SERIAL, letter);
}

static void say(const char *text)
{
    while (*text)
        say_letter(*text++);
}

static void say_number(u32 number)
{
    char digits[10];
    int count = 0;
    do
        digits[count++] = '0' + number % 10;
    while (number /= 10);
    while (count)
        say_letter(digits[--count]);
}

static void say_hexadecimal(const u8 *bytes, u32 size)
{
    for (u32 at = 0; at < size; at++) {
        say_letter("0123456789abcdef"[bytes[at] >> 4]);
        say_letter("0123456789abcdef"[bytes[at] & 15]);
    }
}

static void put8(u8 value) { command[command_size++] = value; }
static void put16(u16 value) { put8(value >> 8); put8(value & 0xff); }
static void put32(u32 value) { put16(value >> 16); put16(value & 0xffff); }

static u32 number_at(const u8 *bytes) { return (u32)bytes[0] << 24 | bytes[1] << 16 | bytes[2] << 8 | bytes[3]; }

static void begin(u16 tag, u32 code)
{
    command_size = 0;
    put16(tag);
    put32(0);
    put32(code);
}

/* The password session with an empty password: TPMS_AUTH_COMMAND after its size. */
static void put_empty_password(void)
{
    put32(9);
    put32(RS_PW);
    put16(0);
    put8(0);
    put16(0);
}

/* Run what `command` holds; gives the response code, the response in `response`. */
static u32 run(void)
{
    u32 size;
    command[4] = command_size >> 8;
    command[5] = command_size & 0xff;
    for (u32 at = 0; at < command_size; at++)
        far_write8(CRB + CRB_DATA + at, command[at]);
    far_write32(CRB + CRB_CONTROL_START, 1);
    while (far_read32(CRB + CRB_CONTROL_START) & 1)
        wait_a_tick();
    for (u32 at = 0; at < HEADER_SIZE; at++)
        response[at] = far_read8(CRB + CRB_DATA + at);
    size = number_at(response + 2);
    for (u32 at = HEADER_SIZE; at < size && at < sizeof response; at++)
        response[at] = far_read8(CRB + CRB_DATA + at);
    return number_at(response + 6);
}

static void complain(const char *what, u32 code)
{
    say("ERR ");
    say(what);
    say_letter(' ');
    say_number(code);
    say_letter('\n');
}

static void show_register(u32 index)
{
    u32 code;
    begin(ST_NO_SESSIONS, CC_PCR_READ);
    put32(1);
    put16(ALG_SHA256);
    put8(3);
    for (u32 octet = 0; octet < 3; octet++)
        put8(index / 8 == octet ? 1 << index % 8 : 0);
    code = run();
    if (code) {
        complain("pcr", code);
        return;
    }
    say("PCR ");
    say_number(index);
    say_letter(' ');
    /* after the header: update counter 4, selection 4 + 6, count 4, size 2 */
    say_hexadecimal(response + HEADER_SIZE + 4 + 10 + 4 + 2, DIGEST_SIZE);
    say_letter('\n');
}

static void extend(u32 index)
{
    u32 code;
    begin(ST_SESSIONS, CC_PCR_EXTEND);
    put32(index);
    put_empty_password();
    put32(1);
    put16(ALG_SHA256);
    for (u32 at = 0; at < DIGEST_SIZE; at++)
        put8(0xa5);
    code = run();
    if (code)
        complain("extend", code);
}

static u32 read_counter(u32 *counter)
{
    u32 code;
    begin(ST_SESSIONS, CC_NV_READ);
    put32(NV_INDEX);
    put32(NV_INDEX);
    put_empty_password();
    put16(COUNTER_SIZE);
    put16(0);
    code = run();
    *counter = code ? 0 : number_at(response + HEADER_SIZE + 4 + 2);
    return code;
}

static u32 write_counter(u32 counter)
{
    begin(ST_SESSIONS, CC_NV_WRITE);
    put32(NV_INDEX);
    put32(NV_INDEX);
    put_empty_password();
    put16(COUNTER_SIZE);
    put32(counter);
    put16(0);
    return run();
}

static u32 define_counter(void)
{
    begin(ST_SESSIONS, CC_NV_DEFINE_SPACE);
    put32(RH_OWNER);
    put_empty_password();
    put16(0);
    put16(14);
    put32(NV_INDEX);
    put16(ALG_SHA256);
    put32(NV_ATTRIBUTES);
    put16(0);
    put16(COUNTER_SIZE);
    return run();
}

/* Find the counter as the launch before this one left it, and say so. */
static u32 find_counter(void)
{
    u32 counter, code = read_counter(&counter);
    if (code == RC_HANDLE_1) {
        say("NV none\n");
        code = define_counter();
        if (code)
            complain("define", code);
        return 0;
    }
    if (code == 0x14a) { /* TPM_RC_NV_UNINITIALIZED: defined, and ended before the first write */
        say("NV none\n");
        return 0;
    }
    if (code) {
        complain("read", code);
        for (;;)
            wait_a_tick();
    }
    say("NV ");
    say_number(counter);
    say_letter('\n');
    return counter;
}

static void power_off(void)
{
    out16(PM1_CONTROL, SLEEP_ENABLE);
    for (;;)
        wait_a_tick();
}

static void reset(void)
{
    out8(RESET_CONTROL, 0x02);
    out8(RESET_CONTROL, 0x06);
    for (;;)
        wait_a_tick();
}

/* Do what is asked over the serial line or by the power button. */
static void obey(void)
{
    if (in16(PM1_STATUS) & POWER_BUTTON) {
        say("END\n");
        power_off();
    }
    if (!(in8(SERIAL_STATUS) & SERIAL_RECEIVED))
        return;
    switch (in8(SERIAL)) {
    case 'r':
        reset();
        break;
    case 'o':
        power_off();
        break;
    case 's':
        for (;;)
            wait_a_tick();
    }
}

static void set_timer(void)
{
    out8(TIMER_COMMAND, 0x34); /* channel 0, rate generator */
    out8(TIMER, TIMER_DIVISOR & 0xff);
    out8(TIMER, TIMER_DIVISOR >> 8);
}

void guest_main(void)
{
    static const u32 shown[] = {10, 16, 17, 18};
    u32 counter;

    set_timer();
    out16(PM1_ENABLE, POWER_BUTTON); /* only then the status bit is set */
    out8(SERIAL + 1, 0);             /* no interrupts */
    far_write32(CRB + CRB_LOCALITY_CONTROL, 1);
    far_write32(CRB + CRB_CONTROL_REQUEST, 1); /* command ready */
    for (u32 at = 0; at < sizeof shown / sizeof *shown; at++)
        show_register(shown[at]);
    counter = find_counter();
    extend(10);
    extend(16);
    for (;;) {
        u32 code = write_counter(counter + 1);
        if (code) {
            complain("write", code);
        } else {
            counter++;
            say("ACK ");
            say_number(counter);
            say_letter('\n');
        }
        for (u32 tick = 0; tick < TICKS_BETWEEN_WRITES; tick++) {
            wait_a_tick();
            obey();
        }
    }
}
