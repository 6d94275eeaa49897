// What one invocation holds: four neighbouring channels where their number allows it, else one.
//% if WIDTH == 4
alias Lanes = vec4<f32>;
//% else
alias Lanes = f32;
//% endif
