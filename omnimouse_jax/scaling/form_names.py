"""Names of the forms and how they read in one line; imports nothing, so that `--help` is instant."""

FORMS: dict[str, str] = {
    "constant": "y = E: no axis matters",
    "log_linear": "y = c + s ln x: gains per doubling never shrink",
    "pure_power": "L = A x^-alpha: a loss that falls to zero",
    "power1": "L = E + A x^-alpha: a loss with a floor",
    "score1": "S = S_inf - A x^-alpha: a score with a plateau",
    "m4": "(L - L_inf)/(L_0 - L)^a = beta x^-c: from chance to a floor (Alabdulmohsin et al. 2022)",
    "bnsl": "y = a + b x^-c0 (1 + (x/d1)^(1/f1))^(-c1 f1): a break; bnsl2, bnsl3: more (Caballero et al. 2022)",
    "vapor_pressure": "y = exp(a + b/x + c ln x)",
    "chinchilla": "L = E + A N^-alpha + B D^-beta: a loss of two axes (Hoffmann et al. 2022)",
    "score_joint": "S = S_inf - A N^-alpha - B D^-beta: a score of two axes",
    "kaplan": "L = [(Nc/N)^(alpha_N/alpha_D) + Dc/D]^alpha_D (Kaplan et al. 2020)",
    "kaplan_floor": "the same plus a floor E",
    "interaction": "chinchilla + C N^-g D^-h: a diagnostic of the additive law",
    "data_constrained": "chinchilla of effective N', D' whose repeats decay; axes N, D seen, D unique (Muennighoff et al. 2023)",
}
