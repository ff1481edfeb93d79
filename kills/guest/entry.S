/* Linux x86 boot protocol (Documentation/arch/x86/boot.rst): the real-mode half of a bzImage, which is
   all there is here.  The boot loader puts it at some segment and enters it 0x20 paragraphs later. */
        .code16
        .section .header, "a"
        .org 0x1f1
        .byte SETUP_SECTORS             /* setup_sects, after the first one */
        .org 0x1fe
        .word 0xaa55                    /* boot_flag */
        .globl start
start:  .byte 0xeb, main_entry - 1f     /* jump */
1:      .ascii "HdrS"                   /* header */
        .word 0x0202                    /* version: the first with cmd_line_ptr */
        .org 0x211
        .byte 0x01                      /* loadflags: LOADED_HIGH */
        .org 0x214
        .long 0x100000                  /* code32_start */
        .org 0x270                      /* after the header of any version: loaders write there */
main_entry:
        cli
        mov     %cs, %ax
        sub     $0x20, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $0xfff0, %esp
        push    %ax
        push    $1f
        lretw                           /* now all segments are one */
1:      movzwl  %ax, %eax
        shl     $4, %eax
        add     $flat_gdt, %eax
        mov     %eax, flat_gdtr + 2
        xor     %eax, %eax
        mov     $zeroed_begin, %edi
        mov     $zeroed_end, %ecx
        sub     %edi, %ecx
        rep     stosb
        sti
        calll   guest_main
2:      hlt
        jmp     2b

/* Give %fs a limit of 4 GiB while in protected mode; it keeps the limit in real mode ("unreal").
   The firmware's interrupt handlers may take it away, so this is called before each access. */
        .globl reach_all_memory
reach_all_memory:
        pushfw
        cli
        lgdtl   flat_gdtr
        mov     %cr0, %eax
        or      $1, %al
        mov     %eax, %cr0
        jmp     1f
1:      mov     $8, %dx
        mov     %dx, %fs
        and     $0xfe, %al
        mov     %eax, %cr0
        jmp     2f
2:      xor     %dx, %dx
        mov     %dx, %fs
        popfw
        retl

        .section .data
        .balign 8
flat_gdt:
        .quad   0
        .quad   0x00cf92000000ffff      /* data, base 0, limit 4 GiB */
flat_gdtr:
        .word   . - flat_gdt - 1
        .long   0
        .section .note.GNU-stack, "", @progbits
