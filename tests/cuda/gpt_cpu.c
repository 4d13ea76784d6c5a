/* gpt_cpu.c - examples/gpt/attention.c under other names: test_gpt.cu links it with attention.cu. */
#define attention_device cpu_device
#define attention_noise cpu_noise
#define attention_forward cpu_forward
#define attention_backward cpu_backward
#define attention_cache_new cpu_cache_new
#define attention_cache_free cpu_cache_free
#define attention_step cpu_step
#define attention_keep cpu_keep
#define attention_verify_chain cpu_verify_chain
#define attention_verify_tree cpu_verify_tree
#include "examples/gpt/attention.c"
