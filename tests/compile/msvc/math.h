/* Stand-in for Microsoft's header, just enough to parse flashattn.h (compile.sh). */
#pragma once
#define INFINITY ((float)(1e308 * 1e308))
#define NAN ((float)(INFINITY * 0.0f))
#define isnan(x) ((x) != (x))
#define isinf(x) ((x) == INFINITY || (x) == -INFINITY)
#define isfinite(x) ((x) - (x) == 0)
double sqrt(double), exp(double), log(double), tanh(double), fabs(double), floor(double), ldexp(double, int);
double pow(double, double), fmax(double, double), fmin(double, double), rint(double), exp2(double), log2(double);
double frexp(double, int *), nearbyint(double), ceil(double), scalbn(double, int), copysign(double, double);
float sqrtf(float), expf(float), logf(float), tanhf(float), fabsf(float), floorf(float), ldexpf(float, int);
float powf(float, float), fmaxf(float, float), fminf(float, float), rintf(float), exp2f(float), log2f(float);
float nearbyintf(float), fmaf(float, float, float), copysignf(float, float);
double fma(double, double, double), cos(double), sin(double);
