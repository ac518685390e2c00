"""Whether instruction modelling overfits less than instruction tuning."""
